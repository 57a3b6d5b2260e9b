//! The tree walked over data.

use std::borrow::Cow;

use super::funcs;
use super::parse::{Branch, Kind, Node, Operand, Parsed, Pipe};
use super::value::Value;

/// How deep blocks may nest, those of templates that call each other included.
const MAX_DEPTH: usize = 250;
/// The largest output, in bytes: data are at most a few MiB, so more is a loop gone wild.
const MAX_OUTPUT: usize = 256 * 1024 * 1024;

/// Executes a template.
///
/// # Errors
/// What went wrong, where in the template.
pub(super) fn execute(parsed: &Parsed, data: Value) -> Result<String, String> {
    let mut run = Run {
        parsed,
        template: &parsed.name,
        variables: vec![("$".to_owned(), data.clone())],
        out: String::new(),
        depth: 0,
    };
    run.nodes(&parsed.root, &data).map(|_| run.out)
}

/// What a list of nodes ended with.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Flow {
    Through,
    Break,
    Continue,
}

struct Run<'a> {
    parsed: &'a Parsed,
    /// The template that is being executed, for messages.
    template: &'a str,
    variables: Vec<(String, Value)>,
    out: String,
    depth: usize,
}

impl<'a> Run<'a> {
    /// Makes an error message: where, in which template, at which expression, why.
    fn fail(&self, operand: &Operand, why: impl std::fmt::Display) -> String {
        self.fail_at(operand.start, operand.end, why)
    }

    fn fail_at(&self, start: usize, end: usize, why: impl std::fmt::Display) -> String {
        /// More of an expression is not shown.
        const SHOWN: usize = 20;
        let text = &self.parsed.text;
        let before = &text[..start];
        let line = 1 + before.matches('\n').count();
        let column = start - before.rfind('\n').map_or(0, |at| at + 1);
        let expression = text[start..end].trim_end();
        let shown: Cow<'_, str> = match expression.char_indices().nth(SHOWN) {
            None => expression.into(),
            Some((cut, _)) => format!("{}...", &expression[..cut]).into(),
        };
        format!(
            "template: {}:{line}:{column}: executing {:?} at <{shown}>: {why}",
            self.parsed.name, self.template
        )
    }

    fn nodes(&mut self, nodes: &'a [Node], dot: &Value) -> Result<Flow, String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(format!(
                "template: {}: executing {:?}: exceeded maximum template depth",
                self.parsed.name, self.template
            ));
        }
        for node in nodes {
            let flow = self.node(node, dot)?;
            if flow != Flow::Through {
                self.depth -= 1;
                return Ok(flow);
            }
            if self.out.len() > MAX_OUTPUT {
                return Err(format!("template: {}: the output is too large", self.parsed.name));
            }
        }
        self.depth -= 1;
        Ok(Flow::Through)
    }

    fn node(&mut self, node: &'a Node, dot: &Value) -> Result<Flow, String> {
        match node {
            Node::Text(text) => self.out.push_str(text),
            Node::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.out.push_str(&value.printed());
                }
            }
            Node::If(branch) => return self.branch(branch, dot, false),
            Node::With(branch) => return self.branch(branch, dot, true),
            Node::Range(branch) => return self.range(branch, dot),
            Node::Template { name, pipe, at } => self.call(name, pipe.as_ref(), *at, dot)?,
            Node::Break => return Ok(Flow::Break),
            Node::Continue => return Ok(Flow::Continue),
        }
        Ok(Flow::Through)
    }

    fn branch(&mut self, branch: &'a Branch, dot: &Value, with: bool) -> Result<Flow, String> {
        let scope = self.variables.len();
        let value = self.pipe(&branch.pipe, dot)?;
        let flow = if value.is_true() {
            self.nodes(&branch.then, if with { &value } else { dot })
        } else {
            self.nodes(&branch.otherwise, dot)
        };
        self.variables.truncate(scope);
        flow
    }

    fn range(&mut self, branch: &'a Branch, dot: &Value) -> Result<Flow, String> {
        let scope = self.variables.len();
        let value = self.pipe_value(&branch.pipe, dot)?;
        let items: Vec<(Value, Value)> = match &value {
            Value::List(list, _) => list
                .iter()
                .flat_map(|list| list.iter().enumerate())
                .map(|(index, item)| {
                    let index = i64::try_from(index).expect("a list in memory has fewer items");
                    (Value::Int(index), item.clone())
                })
                .collect(),
            Value::Map(map, _) => map
                .iter()
                .flat_map(|map| map.iter())
                .map(|(key, item)| (Value::text(key.as_str()), item.clone()))
                .collect(),
            Value::Int(count) => {
                // Every turn costs; nothing that is inspected has more items than this.
                let count = (*count).min(1_000_000);
                (0..count).map(|index| (Value::Int(index), Value::Int(index))).collect()
            }
            Value::Missing => Vec::new(),
            other => {
                let at = branch.pipe.at;
                let end = branch.pipe.commands.last().and_then(|command| command.last());
                let end = end.map_or(at, |operand| operand.end);
                return Err(self.fail_at(
                    at,
                    end.max(at),
                    format!("range can't iterate over {}", other.formatted()),
                ));
            }
        };
        let mut flow = Flow::Through;
        if items.is_empty() {
            flow = self.nodes(&branch.otherwise, dot)?;
        }
        for (key, item) in items {
            self.bind_range(&branch.pipe, key, &item);
            let end = self.nodes(&branch.then, &item)?;
            self.variables.truncate(scope);
            if end == Flow::Break {
                break;
            }
        }
        self.variables.truncate(scope);
        Ok(flow)
    }

    /// Gives a loop's variables their values: the item, or key and item.
    fn bind_range(&mut self, pipe: &Pipe, key: Value, item: &Value) {
        let values = match pipe.variables.len() {
            0 => return,
            1 => vec![item.clone()],
            _ => vec![key, item.clone()],
        };
        for (name, value) in pipe.variables.iter().zip(values) {
            self.bind(name, value, pipe.assigns);
        }
    }

    fn bind(&mut self, name: &str, value: Value, assigns: bool) {
        if assigns
            && let Some((_, old)) = self.variables.iter_mut().rev().find(|(found, _)| found == name)
        {
            *old = value;
            return;
        }
        self.variables.push((name.to_owned(), value));
    }

    fn call(
        &mut self,
        name: &'a str,
        pipe: Option<&'a Pipe>,
        at: usize,
        dot: &Value,
    ) -> Result<(), String> {
        let parsed = self.parsed;
        let body = parsed
            .defined
            .get(name)
            .ok_or_else(|| self.fail_at(at, at, format!("template {name:?} not defined")))?;
        let dot = match pipe {
            Some(pipe) => self.pipe(pipe, dot)?,
            None => Value::Missing,
        };
        let variables = std::mem::replace(&mut self.variables, vec![("$".to_owned(), dot.clone())]);
        let template = std::mem::replace(&mut self.template, name);
        self.nodes(body, &dot)?;
        self.variables = variables;
        self.template = template;
        Ok(())
    }

    /// Evaluates a pipeline and binds its variables.
    fn pipe(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let value = self.pipe_value(pipe, dot)?;
        for name in &pipe.variables {
            self.bind(name, value.clone(), pipe.assigns);
        }
        Ok(value)
    }

    fn pipe_value(&mut self, pipe: &Pipe, dot: &Value) -> Result<Value, String> {
        let mut last = None;
        for command in &pipe.commands {
            last = Some(self.command(command, dot, last)?);
        }
        Ok(last.expect("the parser refuses a pipeline without commands"))
    }

    fn command(
        &mut self,
        command: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, String> {
        let (first, rest) =
            command.split_first().expect("the parser refuses a command without operands");
        match &first.kind {
            Kind::Function(name) => self.function(name, first, rest, dot, piped),
            Kind::Field(_) | Kind::Variable(..) | Kind::Chain(..) => {
                let value = self.operand(first, dot)?;
                if !rest.is_empty() || piped.is_some() {
                    let name = self.parsed.text[first.start..first.end].trim();
                    let name = name.rsplit('.').next().unwrap_or(name);
                    return Err(self.fail(
                        first,
                        format!("{name} has arguments but cannot be invoked as function"),
                    ));
                }
                Ok(value)
            }
            Kind::Nil => Err(self.fail(first, "nil is not a command")),
            Kind::Dot | Kind::Constant(_) | Kind::Pipe(_) => {
                if !rest.is_empty() || piped.is_some() {
                    let text = self.parsed.text[first.start..first.end].trim();
                    return Err(
                        self.fail(first, format!("can't give argument to non-function {text}"))
                    );
                }
                self.operand(first, dot)
            }
        }
    }

    fn operand(&mut self, operand: &Operand, dot: &Value) -> Result<Value, String> {
        match &operand.kind {
            Kind::Dot => Ok(dot.clone()),
            Kind::Nil => Ok(Value::Nil),
            Kind::Constant(value) => Ok(value.clone()),
            Kind::Field(names) => self.fields(operand, dot.clone(), names),
            Kind::Variable(name, names) => {
                let found = self.variables.iter().rev().find(|(found, _)| found == name);
                let value = found.map(|(_, value)| value.clone());
                let value = value
                    .ok_or_else(|| self.fail(operand, format!("undefined variable: {name}")))?;
                self.fields(operand, value, names)
            }
            Kind::Function(name) => self.function(name, operand, &[], dot, None),
            Kind::Pipe(pipe) => self.pipe(pipe, dot),
            Kind::Chain(inner, names) => {
                let value = self.operand(inner, dot)?;
                self.fields(operand, value, names)
            }
        }
    }

    fn fields(
        &self,
        operand: &Operand,
        mut value: Value,
        names: &[String],
    ) -> Result<Value, String> {
        for name in names {
            value = match &value {
                Value::Struct(fields) => {
                    let found = fields.fields.iter().find(|(field, _)| field == name);
                    found.map(|(_, value)| value.clone()).ok_or_else(|| {
                        // The outermost struct stands in a list of anything.
                        let of = match fields.name {
                            "inspect.Output" | "v1.Image" => "interface {}",
                            name => name,
                        };
                        self.fail(operand, format!("can't evaluate field {name} in type {of}"))
                    })?
                }
                Value::Map(map, _) => {
                    map.as_ref().and_then(|map| map.get(name)).cloned().unwrap_or(Value::Missing)
                }
                Value::Missing => Value::Missing,
                Value::Nil => {
                    return Err(self.fail(operand, format!("nil data; no entry for key {name:?}")));
                }
                Value::Time(None) => {
                    return Err(
                        self.fail(operand, format!("nil pointer evaluating *time.Time.{name}"))
                    );
                }
                other => {
                    return Err(self.fail(
                        operand,
                        format!("can't evaluate field {name} in type {}", other.type_name()),
                    ));
                }
            };
        }
        Ok(value)
    }

    fn function(
        &mut self,
        name: &str,
        operand: &Operand,
        arguments: &[Operand],
        dot: &Value,
        piped: Option<Value>,
    ) -> Result<Value, String> {
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for argument in arguments {
            let value = self.operand(argument, dot)?;
            // `and` and `or` stop at the first value that decides.
            let decides = match name {
                "and" => !value.is_true(),
                "or" => value.is_true(),
                _ => false,
            };
            values.push(value);
            if decides {
                return Ok(values.pop().expect("just pushed"));
            }
        }
        values.extend(piped);
        funcs::call(name, &values).map_err(|why| self.fail(operand, why))
    }
}
