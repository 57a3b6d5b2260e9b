//! Templates cut into text, and actions cut into tokens.

/// A piece of a template.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Token {
    /// Text between actions.
    Text(String),
    /// `{{`.
    Open,
    /// `}}`.
    Close,
    /// White space within an action; it tells `.a.b` from `.a .b`.
    Space,
    /// A word: a function, `true`, `nil` or a keyword.
    Word(String),
    /// `.Name`.
    Field(String),
    /// `$name`, or `$` alone.
    Variable(String),
    /// `.`.
    Dot,
    /// A string, unquoted.
    Str(String),
    /// A number or a character, as written.
    Number(String),
    /// `(`, `)`, `|` or `,`.
    Sign(char),
    /// `:=`.
    Declare,
    /// `=`.
    Assign,
}

/// A token and where it starts, in bytes.
pub(super) type At = (usize, Token);

/// Cuts a template into tokens.
///
/// # Errors
/// Where and why it is none.
pub(super) fn lex(text: &str) -> Result<Vec<At>, (usize, String)> {
    let mut tokens = Vec::new();
    let mut at = 0;
    let mut trim = false;
    while at < text.len() {
        let rest = &text[at..];
        let open = rest.find("{{");
        let mut plain = &rest[..open.unwrap_or(rest.len())];
        let start = at;
        at += plain.len();
        if trim {
            plain = plain.trim_start_matches(super::is_space);
        }
        let Some(_) = open else {
            push_text(&mut tokens, start, plain);
            break;
        };
        let mut inside = &text[at + 2..];
        let mut skipped = 2;
        if let Some(rest) = inside.strip_prefix('-')
            && rest.starts_with(super::is_space)
        {
            plain = plain.trim_end_matches(super::is_space);
            inside = rest;
            skipped += 1;
        }
        push_text(&mut tokens, start, plain);
        let trimmed = inside.trim_start_matches(super::is_space);
        // A comment directly follows the delimiter, or a trim marker and its space.
        let comment_at = if skipped == 3 { trimmed } else { inside };
        if let Some(comment) = comment_at.strip_prefix("/*") {
            let end = comment.find("*/").ok_or((at, "unclosed comment".to_owned()))?;
            let rest = &comment[end + 2..];
            let marked = rest.trim_start_matches(super::is_space);
            let (closed, trims) = match (rest.strip_prefix("}}"), marked.strip_prefix("-}}")) {
                (Some(closed), _) => (closed, false),
                (None, Some(closed)) if marked.len() < rest.len() => (closed, true),
                _ => return Err((at, "comment ends before closing delimiter".to_owned())),
            };
            trim = trims;
            at = text.len() - closed.len();
            continue;
        }
        tokens.push((at, Token::Open));
        at += skipped;
        (at, trim) = lex_action(text, at, &mut tokens)?;
    }
    Ok(tokens)
}

fn push_text(tokens: &mut Vec<At>, at: usize, text: &str) {
    if !text.is_empty() {
        tokens.push((at, Token::Text(text.to_owned())));
    }
}

/// Cuts an action up to its `}}`; returns where it ends, and whether it trims what follows.
fn lex_action(
    text: &str,
    mut at: usize,
    tokens: &mut Vec<At>,
) -> Result<(usize, bool), (usize, String)> {
    let mut open_parens: usize = 0;
    loop {
        let rest = &text[at..];
        let spaces = rest.len() - rest.trim_start_matches(super::is_space).len();
        let close = if spaces > 0 && rest[spaces..].starts_with("-}}") {
            Some((spaces + 3, true))
        } else {
            rest.starts_with("}}").then_some((2, false))
        };
        if let Some((length, trims)) = close {
            if open_parens > 0 {
                return Err((at, "unclosed left paren".to_owned()));
            }
            tokens.push((at, Token::Close));
            return Ok((at + length, trims));
        }
        let Some(first) = rest.chars().next() else {
            return Err((at, "unclosed action".to_owned()));
        };
        let (length, token) = match first {
            _ if spaces > 0 => (spaces, Token::Space),
            '(' => {
                open_parens += 1;
                (1, Token::Sign('('))
            }
            ')' => {
                open_parens = open_parens
                    .checked_sub(1)
                    .ok_or_else(|| (at, "unexpected right paren".to_owned()))?;
                (1, Token::Sign(')'))
            }
            '|' | ',' => (1, Token::Sign(first)),
            ':' if rest.starts_with(":=") => (2, Token::Declare),
            ':' => return Err((at, "expected :=".to_owned())),
            '=' => (1, Token::Assign),
            '"' => {
                let (length, string) = quoted(rest).map_err(|why| (at, why))?;
                (length, Token::Str(string))
            }
            '`' => {
                let end =
                    rest[1..].find('`').ok_or((at, "unterminated raw quoted string".to_owned()))?;
                (end + 2, Token::Str(rest[1..=end].replace('\r', "")))
            }
            '\'' => {
                let length = character_length(rest)
                    .ok_or((at, "unterminated character constant".to_owned()))?;
                (length, Token::Number(rest[..length].to_owned()))
            }
            '$' => {
                let length = 1 + word_length(&rest[1..]);
                (length, Token::Variable(rest[..length].to_owned()))
            }
            '.' if !rest[1..].starts_with(|c: char| c.is_ascii_digit()) => {
                let length = word_length(&rest[1..]);
                match length {
                    0 => (1, Token::Dot),
                    _ => (1 + length, Token::Field(rest[1..=length].to_owned())),
                }
            }
            '.' | '+' | '-' | '0'..='9' => {
                let length = 1 + rest[1..]
                    .find(|c: char| !(c.is_alphanumeric() || matches!(c, '.' | '_' | '+' | '-')))
                    .unwrap_or(rest.len() - 1);
                (length, Token::Number(rest[..length].to_owned()))
            }
            c if c.is_alphabetic() || c == '_' => {
                let length = word_length(rest);
                (length, Token::Word(rest[..length].to_owned()))
            }
            c => return Err((at, format!("unexpected {:?} in operand", c.to_string()))),
        };
        tokens.push((at, token));
        at += length;
    }
}

/// Returns how long a word is that the text starts with.
fn word_length(text: &str) -> usize {
    text.find(|c: char| !(c.is_alphanumeric() || c == '_')).unwrap_or(text.len())
}

/// Returns how long a character constant is, quotes included.
fn character_length(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            '\n' => return None,
            '\'' if !escaped => return Some(at + 1),
            _ => escaped = c == '\\' && !escaped,
        }
    }
    None
}

/// Reads a string in double quotes; returns its length in the template and its text.
fn quoted(text: &str) -> Result<(usize, String), String> {
    let mut out = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Ok((at + 1, out)),
            '\n' => break,
            '\\' => {
                let (escaped, used) =
                    unescape(&text[at + 1..]).ok_or_else(|| "invalid escape".to_owned())?;
                out.push(escaped);
                for _ in text[at + 1..at + 1 + used].chars() {
                    chars.next();
                }
            }
            _ => out.push(c),
        }
    }
    Err("unterminated quoted string".to_owned())
}

/// Reads what follows a backslash; returns the character and how many bytes it took.
pub(super) fn unescape(text: &str) -> Option<(char, usize)> {
    let number = |start: usize, length: usize, radix: u32| {
        let digits = text.get(start..start + length)?;
        let valid = digits.chars().all(|c| c.is_digit(radix));
        let code = valid.then(|| u32::from_str_radix(digits, radix).ok()).flatten()?;
        Some((char::from_u32(code)?, start + length))
    };
    Some(match text.chars().next()? {
        'a' => ('\x07', 1),
        'b' => ('\x08', 1),
        'f' => ('\x0c', 1),
        'n' => ('\n', 1),
        'r' => ('\r', 1),
        't' => ('\t', 1),
        'v' => ('\x0b', 1),
        c @ ('\\' | '\'' | '"') => (c, 1),
        'x' => return number(1, 2, 16),
        'u' => return number(1, 4, 16),
        'U' => return number(1, 8, 16),
        '0'..='7' => return number(0, 3, 8),
        _ => return None,
    })
}
