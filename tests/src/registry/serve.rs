//! One request from its head to its answer, with what is odd about it.

use std::io;
use std::net::TcpStream;
use std::time::Duration;

use super::faults::Plan;
use super::{Answer, Shared, api};
use crate::http::{Arrived, Connection, Delivery, Request, Response};
use crate::lock;

/// A request that the registry answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Logged {
    /// The method, such as `GET`.
    pub method: String,
    /// Path and query, as sent.
    pub target: String,
    /// The response's status; 0 when the connection was cut instead.
    pub status: u16,
    /// The headers, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many bytes of its body arrived.
    pub received: u64,
    /// When its head arrived, counted from the registry's start.
    pub at: Duration,
}

impl Logged {
    /// Returns a header; `name` is in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Tells whether credentials of any kind came along.
    pub fn is_authorized(&self) -> bool {
        self.header("authorization").is_some()
    }
}

/// Whether the connection can be used again.
#[derive(PartialEq, Eq)]
enum Next {
    Open,
    Closed,
}

/// Answers the requests of one connection, one after the other.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) -> io::Result<()> {
    let mut connection = Connection::new(stream, &shared.traffic)?;
    while let Some(request) = connection.read_head()? {
        let close = request.wants_close();
        if one(&mut connection, request, shared)? == Next::Closed || close {
            break;
        }
    }
    Ok(())
}

fn one(connection: &mut Connection, mut request: Request, shared: &Shared) -> io::Result<Next> {
    let at = shared.start.elapsed();
    let _turn = shared.turns.take(&request.path);
    let target = [request.target.as_str(), request.path.as_str()];
    let plan = lock(&shared.faults).plan(&request.method, &target);
    let log = |request: &Request, status| {
        lock(&shared.requests).push(Logged {
            method: request.method.clone(),
            target: request.target.clone(),
            status,
            headers: request.headers.clone(),
            received: request.body.len() as u64,
            at,
        });
    };
    if let Some(answer) = plan.answer.as_ref().filter(|answer| answer.early) {
        return early(connection, &request, answer, log);
    }
    match connection.read_body(&mut request, plan.intake)? {
        Arrived::Whole => {}
        Arrived::Part => {
            api::broken_off(&request, &shared.store, plan.forget_upload);
            log(&request, 0);
            return Ok(Next::Closed);
        }
        Arrived::TooLong => return early(connection, &request, &Answer::html(413), log),
    }
    if let Some(time) = plan.delay {
        std::thread::sleep(time);
    }
    if plan.disconnect {
        log(&request, 0);
        return Ok(Next::Closed);
    }
    let response = match &plan.answer {
        Some(answer) => answer.response(),
        None => usual(&request, shared, &plan),
    };
    if plan.lose_answer {
        log(&request, 0);
        return Ok(Next::Closed);
    }
    log(&request, response.status);
    if let Some(digest) = &plan.move_tag {
        api::move_tag(&request, &shared.store, digest);
    }
    connection.write_response(&request, &response, plan.delivery)?;
    Ok(if plan.delivery.ends_connection() { Next::Closed } else { Next::Open })
}

/// Answers before the body has been read, and closes the connection.
fn early(
    connection: &mut Connection,
    request: &Request,
    answer: &Answer,
    log: impl Fn(&Request, u16),
) -> io::Result<Next> {
    let response = answer.response().with("Connection", "close");
    log(request, response.status);
    connection.write_response(request, &response, Delivery::default())?;
    connection.linger();
    Ok(Next::Closed)
}

/// Answers as a registry does, but for what is planned.
fn usual(request: &Request, shared: &Shared, plan: &Plan) -> Response {
    if let Some(refusal) = shared.gate.refusal(request, plan.challenges.as_deref()) {
        return refusal;
    }
    let mut response = api::answer(request, &shared.store, plan);
    if let Some(host) = plan.redirect.as_ref().filter(|_| response.status < 300) {
        let target = format!("http://{host}{}", request.target);
        response = Response::new(307).with("Location", target);
    }
    if let (Some(host), Some(path)) = (&plan.location_at, response.header("Location"))
        && path.starts_with('/')
    {
        let location = format!("http://{host}{path}");
        response.set("Location", location);
    }
    for (name, value) in &plan.headers {
        match value {
            Some(value) => response.set(name, value.as_str()),
            None => response.remove(name),
        }
    }
    if let Some(at) = plan.flip {
        response.flip(at);
    }
    response
}
