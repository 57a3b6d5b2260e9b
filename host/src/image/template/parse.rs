//! Tokens put together into a tree.

use std::collections::HashMap;

use super::funcs;
use super::lex::{At, Token, lex, unescape};
use super::value::Value;

/// How deep blocks and parentheses may nest; Go allows more, nobody writes more.
const MAX_DEPTH: usize = 100;

/// A parsed template.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) name: String,
    pub(super) text: String,
    pub(super) root: Vec<Node>,
    /// Templates made by `define` and `block`.
    pub(super) defined: HashMap<String, Vec<Node>>,
}

/// Something that produces output or changes what does.
#[derive(Debug)]
pub(super) enum Node {
    Text(String),
    Action(Pipe),
    If(Branch),
    With(Branch),
    Range(Branch),
    Template { name: String, pipe: Option<Pipe>, at: usize },
    Break,
    Continue,
}

/// A pipeline that decides, and what is done either way.
#[derive(Debug)]
pub(super) struct Branch {
    pub(super) pipe: Pipe,
    pub(super) then: Vec<Node>,
    pub(super) otherwise: Vec<Node>,
}

/// Commands, each with the result of the one before as its last argument.
#[derive(Debug)]
pub(super) struct Pipe {
    pub(super) variables: Vec<String>,
    /// Whether the variables exist already.
    pub(super) assigns: bool,
    pub(super) commands: Vec<Vec<Operand>>,
    pub(super) at: usize,
}

/// An argument, and where it is.
#[derive(Debug)]
pub(super) struct Operand {
    pub(super) kind: Kind,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// What an argument is.
#[derive(Debug)]
pub(super) enum Kind {
    Dot,
    Nil,
    Constant(Value),
    Field(Vec<String>),
    Variable(String, Vec<String>),
    Function(String),
    Pipe(Box<Pipe>),
    /// Fields of what a function or pipeline in parentheses gives.
    Chain(Box<Operand>, Vec<String>),
}

/// Parses a template.
///
/// # Errors
/// What is wrong, with the template's name and the line.
pub(super) fn parse(name: &str, text: &str) -> Result<Parsed, String> {
    let located = |(at, why): (usize, String)| {
        let line = 1 + text[..at.min(text.len())].matches('\n').count();
        format!("template: {name}:{line}: {why}")
    };
    let mut parser = Parser {
        tokens: lex(text).map_err(located)?,
        next: 0,
        end: text.len(),
        variables: vec!["$".to_owned()],
        defined: HashMap::new(),
        ranges: 0,
        depth: 0,
    };
    let (root, end) = parser.list().map_err(located)?;
    if let Some((at, word)) = end {
        return Err(located((at, format!("unexpected {{{{{word}}}}}"))));
    }
    Ok(Parsed { name: name.to_owned(), text: text.to_owned(), root, defined: parser.defined })
}

type Outcome<T> = Result<T, (usize, String)>;
/// The `end` or `else` that a list of nodes ended with, and where it is.
type ListEnd = Option<(usize, &'static str)>;

struct Parser {
    tokens: Vec<At>,
    next: usize,
    end: usize,
    /// Variables in scope.
    variables: Vec<String>,
    defined: HashMap<String, Vec<Node>>,
    /// How many loops are around.
    ranges: usize,
    depth: usize,
}

impl Parser {
    fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.next).map(|(_, token)| token)
    }

    fn at(&self) -> usize {
        self.tokens.get(self.next).map_or(self.end, |(at, _)| *at)
    }

    fn take(&mut self) -> Option<Token> {
        let token = self.peek().cloned();
        self.next += usize::from(token.is_some());
        token
    }

    fn skip_space(&mut self) {
        while self.peek() == Some(&Token::Space) {
            self.next += 1;
        }
    }

    fn fail<T>(&self, why: impl Into<String>) -> Outcome<T> {
        Err((self.at(), why.into()))
    }

    fn deeper(&mut self) -> Outcome<()> {
        self.depth += 1;
        if self.depth > MAX_DEPTH { self.fail("nested too deeply") } else { Ok(()) }
    }

    /// Reads nodes up to the end, or to `end` or `else`, which is returned with its place.
    fn list(&mut self) -> Outcome<(Vec<Node>, ListEnd)> {
        let mut nodes = Vec::new();
        loop {
            let at = self.at();
            match self.take() {
                None => return Ok((nodes, None)),
                Some(Token::Text(text)) => nodes.push(Node::Text(text)),
                Some(Token::Open) => {
                    self.skip_space();
                    let word = match self.peek() {
                        Some(Token::Word(word)) => word.clone(),
                        _ => String::new(),
                    };
                    match word.as_str() {
                        "end" => {
                            self.next += 1;
                            self.close("end")?;
                            return Ok((nodes, Some((at, "end"))));
                        }
                        "else" => {
                            self.next += 1;
                            return Ok((nodes, Some((at, "else"))));
                        }
                        "define" => self.define()?,
                        _ => nodes.extend(self.action(&word)?),
                    }
                }
                Some(other) => return Err((at, format!("unexpected {other:?}"))),
            }
        }
    }

    fn close(&mut self, context: &str) -> Outcome<()> {
        self.skip_space();
        match self.peek() {
            Some(Token::Close) => {
                self.next += 1;
                Ok(())
            }
            other => {
                let what = other.map_or_else(|| "EOF".to_owned(), describe);
                self.fail(format!("unexpected {what} in {context}"))
            }
        }
    }

    fn action(&mut self, word: &str) -> Outcome<Option<Node>> {
        if matches!(word, "if" | "with" | "range" | "template" | "block" | "break" | "continue") {
            self.next += 1;
        }
        Ok(Some(match word {
            "if" => Node::If(self.branch("if")?),
            "with" => Node::With(self.branch("with")?),
            "range" => Node::Range(self.branch("range")?),
            "break" | "continue" => {
                if self.ranges == 0 {
                    return self.fail(format!("{{{{{word}}}}} outside {{{{range}}}}"));
                }
                self.close(word)?;
                if word == "break" { Node::Break } else { Node::Continue }
            }
            "template" => {
                let at = self.at();
                let name = self.name("template clause")?;
                self.skip_space();
                let pipe = match self.peek() {
                    Some(Token::Close) => None,
                    _ => Some(self.pipeline("template clause", false)?),
                };
                self.close("template clause")?;
                Node::Template { name, pipe, at }
            }
            "block" => {
                let at = self.at();
                let name = self.name("block clause")?;
                let pipe = self.pipeline("block clause", false)?;
                self.close("block clause")?;
                let body = self.body_of_definition()?;
                self.defined.entry(name.clone()).or_insert(body);
                Node::Template { name, pipe: Some(pipe), at }
            }
            _ => {
                let pipe = self.pipeline("command", false)?;
                self.close("command")?;
                Node::Action(pipe)
            }
        }))
    }

    fn name(&mut self, context: &str) -> Outcome<String> {
        self.skip_space();
        match self.peek() {
            Some(Token::Str(name)) => {
                let name = name.clone();
                self.next += 1;
                Ok(name)
            }
            other => {
                let what = other.map_or_else(|| "EOF".to_owned(), describe);
                self.fail(format!("unexpected {what} in {context}"))
            }
        }
    }

    fn define(&mut self) -> Outcome<()> {
        self.next += 1;
        if self.depth > 0 {
            return self.fail("unexpected <define> in command");
        }
        let name = self.name("define clause")?;
        self.close("define clause")?;
        let body = self.body_of_definition()?;
        self.defined.insert(name, body);
        Ok(())
    }

    /// Reads the body of `define` or `block`, which sees no variables but `$`.
    fn body_of_definition(&mut self) -> Outcome<Vec<Node>> {
        self.deeper()?;
        let outer = std::mem::replace(&mut self.variables, vec!["$".to_owned()]);
        let ranges = std::mem::take(&mut self.ranges);
        let (body, end) = self.list()?;
        self.variables = outer;
        self.ranges = ranges;
        self.depth -= 1;
        match end {
            Some((_, "end")) => Ok(body),
            Some((at, word)) => Err((at, format!("unexpected {{{{{word}}}}}"))),
            None => self.fail("unexpected EOF"),
        }
    }

    /// Reads what follows `if`, `with` or `range`, up to and with its `end`.
    fn branch(&mut self, word: &'static str) -> Outcome<Branch> {
        self.deeper()?;
        let scope = self.variables.len();
        let pipe = self.pipeline(word, word == "range")?;
        self.close(word)?;
        self.ranges += usize::from(word == "range");
        let (then, end) = self.list()?;
        self.ranges -= usize::from(word == "range");
        let otherwise = match end {
            None => return self.fail("unexpected EOF"),
            Some((at, "else")) => self.otherwise(word, at)?,
            Some(_) => Vec::new(),
        };
        self.variables.truncate(scope);
        self.depth -= 1;
        Ok(Branch { pipe, then, otherwise })
    }

    /// Reads what follows `else`; `else if` and `else with` share the `end` of what they are in.
    fn otherwise(&mut self, word: &'static str, at: usize) -> Outcome<Vec<Node>> {
        self.skip_space();
        if word != "range"
            && let Some(Token::Word(next)) = self.peek()
            && next == word
        {
            self.next += 1;
            let branch = self.branch(word)?;
            return Ok(vec![if word == "if" { Node::If(branch) } else { Node::With(branch) }]);
        }
        self.close("else")?;
        match self.list()? {
            (nodes, Some((_, "end"))) => Ok(nodes),
            (_, Some(_)) => Err((at, format!("expected end; found {{{{else}}}} in {word}"))),
            (_, None) => self.fail("unexpected EOF"),
        }
    }

    /// Reads a pipeline up to `}}` or `)`, which stay.
    fn pipeline(&mut self, context: &str, in_range: bool) -> Outcome<Pipe> {
        self.deeper()?;
        self.skip_space();
        let at = self.at();
        let (variables, assigns) = self.declarations(context, in_range)?;
        let mut commands = Vec::new();
        loop {
            self.skip_space();
            let before = self.at();
            let command = self.command()?;
            if command.is_empty() {
                return Err((before, format!("missing value for {context}")));
            }
            if !commands.is_empty()
                && matches!(command[0].kind, Kind::Constant(_) | Kind::Dot | Kind::Nil)
            {
                let number = commands.len() + 1;
                return Err((before, format!("non executable command in pipeline stage {number}")));
            }
            commands.push(command);
            self.skip_space();
            if self.peek() == Some(&Token::Sign('|')) {
                self.next += 1;
                continue;
            }
            break;
        }
        if !assigns {
            self.variables.extend(variables.iter().cloned());
        }
        self.depth -= 1;
        Ok(Pipe { variables, assigns, commands, at })
    }

    /// Reads `$a :=`, `$a =`, or in a range `$a, $b :=`.
    fn declarations(&mut self, context: &str, in_range: bool) -> Outcome<(Vec<String>, bool)> {
        let start = self.next;
        let mut names = Vec::new();
        loop {
            self.skip_space();
            let Some(Token::Variable(name)) = self.peek() else { break };
            let name = name.clone();
            self.next += 1;
            self.skip_space();
            names.push(name);
            match self.peek() {
                Some(Token::Declare) => {
                    self.next += 1;
                    return Ok((names, false));
                }
                Some(Token::Assign) => {
                    if let Some(unknown) = names.iter().find(|name| !self.variables.contains(name))
                    {
                        return self.fail(format!("undefined variable {unknown:?}"));
                    }
                    self.next += 1;
                    return Ok((names, true));
                }
                Some(Token::Sign(',')) if in_range && names.len() == 1 => self.next += 1,
                Some(Token::Sign(',')) => {
                    return self.fail(format!("too many declarations in {context}"));
                }
                _ => break,
            }
        }
        if names.len() > 1 {
            return self.fail("range can only initialize variables");
        }
        self.next = start;
        Ok((Vec::new(), false))
    }

    /// Reads arguments up to `|`, `)` or `}}`.
    fn command(&mut self) -> Outcome<Vec<Operand>> {
        let mut operands = Vec::new();
        loop {
            self.skip_space();
            let Some(operand) = self.operand()? else { return Ok(operands) };
            operands.push(operand);
            match self.peek() {
                Some(Token::Space | Token::Sign('|' | ')') | Token::Close) => {}
                None => return self.fail("unclosed action"),
                Some(other) => {
                    return self.fail(format!("unexpected {} in operand", describe(other)));
                }
            }
        }
    }

    fn operand(&mut self) -> Outcome<Option<Operand>> {
        let start = self.at();
        let Some(kind) = self.term()? else { return Ok(None) };
        let mut fields = Vec::new();
        while let Some(Token::Field(name)) = self.peek() {
            fields.push(name.clone());
            self.next += 1;
        }
        let end = self.at();
        if fields.is_empty() {
            return Ok(Some(Operand { kind, start, end }));
        }
        let kind = match kind {
            Kind::Field(mut names) => {
                names.append(&mut fields);
                Kind::Field(names)
            }
            Kind::Variable(name, _) => Kind::Variable(name, fields),
            Kind::Dot | Kind::Nil | Kind::Constant(_) => {
                return Err((start, "unexpected . after term".to_owned()));
            }
            kind => Kind::Chain(Box::new(Operand { kind, start, end }), fields),
        };
        Ok(Some(Operand { kind, start, end }))
    }

    fn term(&mut self) -> Outcome<Option<Kind>> {
        let at = self.at();
        let kind = match self.peek() {
            Some(Token::Dot) => Kind::Dot,
            Some(Token::Field(name)) => Kind::Field(vec![name.clone()]),
            Some(Token::Str(text)) => Kind::Constant(Value::text(text.as_str())),
            Some(Token::Number(text)) => {
                let number =
                    number(text).ok_or_else(|| (at, format!("bad number syntax: {text:?}")))?;
                Kind::Constant(number)
            }
            Some(Token::Variable(name)) => {
                if !self.variables.contains(name) {
                    return Err((at, format!("undefined variable {name:?}")));
                }
                Kind::Variable(name.clone(), Vec::new())
            }
            Some(Token::Word(word)) => match word.as_str() {
                "true" => Kind::Constant(Value::Bool(true)),
                "false" => Kind::Constant(Value::Bool(false)),
                "nil" => Kind::Nil,
                name if funcs::exists(name) => Kind::Function(name.to_owned()),
                name if is_keyword(name) => {
                    return Err((at, format!("unexpected <{name}> in operand")));
                }
                name => return Err((at, format!("function {name:?} not defined"))),
            },
            Some(Token::Sign('(')) => {
                self.next += 1;
                let pipe = self.pipeline("parenthesized pipeline", false)?;
                self.skip_space();
                if self.peek() != Some(&Token::Sign(')')) {
                    return self.fail("unclosed left paren");
                }
                Kind::Pipe(Box::new(pipe))
            }
            _ => return Ok(None),
        };
        self.next += 1;
        Ok(Some(kind))
    }
}

fn is_keyword(word: &str) -> bool {
    matches!(
        word,
        "if" | "else"
            | "end"
            | "range"
            | "with"
            | "define"
            | "block"
            | "template"
            | "break"
            | "continue"
    )
}

/// Shows a token in an error message.
fn describe(token: &Token) -> String {
    match token {
        Token::Text(text) => format!("{text:?}"),
        Token::Open => "\"{{\"".to_owned(),
        Token::Close => "\"}}\"".to_owned(),
        Token::Space => "\" \"".to_owned(),
        Token::Word(word) if is_keyword(word) => format!("<{word}>"),
        Token::Word(word) | Token::Variable(word) | Token::Number(word) => format!("{word:?}"),
        Token::Field(name) => format!("\".{name}\""),
        Token::Dot => "<.>".to_owned(),
        Token::Str(text) => format!("{:?}", format!("{text:?}")),
        Token::Sign(sign) => format!("{:?}", sign.to_string()),
        Token::Declare => "\":=\"".to_owned(),
        Token::Assign => "\"=\"".to_owned(),
    }
}

/// Reads a number or a character constant.
fn number(text: &str) -> Option<Value> {
    if let Some(inner) = text.strip_prefix('\'') {
        let inner = inner.strip_suffix('\'')?;
        let mut chars = inner.chars();
        let (c, used) = match chars.next()? {
            '\\' => {
                let (c, used) = unescape(&inner[1..])?;
                (c, used + 1)
            }
            c => (c, c.len_utf8()),
        };
        return (used == inner.len()).then(|| Value::Int(i64::from(u32::from(c))));
    }
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let plain = digits.replace('_', "");
    let lower = plain.to_ascii_lowercase();
    let integer = if let Some(hex) = lower.strip_prefix("0x") {
        i128::from_str_radix(hex, 16).ok()
    } else if let Some(binary) = lower.strip_prefix("0b") {
        i128::from_str_radix(binary, 2).ok()
    } else if let Some(octal) = lower.strip_prefix("0o") {
        i128::from_str_radix(octal, 8).ok()
    } else if lower.len() > 1 && lower.starts_with('0') && lower.bytes().all(|b| b.is_ascii_digit())
    {
        i128::from_str_radix(&lower, 8).ok()
    } else if lower.starts_with(|c: char| c.is_ascii_digit()) {
        lower.parse().ok()
    } else {
        None
    };
    if let Some(integer) = integer {
        let integer = if negative { -integer } else { integer };
        return i64::try_from(integer).ok().map(Value::Int);
    }
    if !lower.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let float: f64 = lower.parse().ok()?;
    float.is_finite().then_some(Value::Float(if negative { -float } else { float }))
}
