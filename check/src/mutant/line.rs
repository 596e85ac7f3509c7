//! The small changes that a line of WGSL allows.

use std::ops::Range;

/// A piece of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum TokenKind {
    /// A name or a keyword.
    Name,
    /// A literal.
    Number,
    /// An operator or a bracket.
    Sign,
}

#[derive(Clone, Debug)]
struct Token<'a> {
    kind: TokenKind,
    text: &'a str,
    range: Range<usize>,
}

/// Signs of two characters, which must not be taken for two.
const LONG_SIGNS: [&str; 15] =
    ["->", "<=", ">=", "==", "!=", "&&", "||", "<<", ">>", "+=", "-=", "*=", "/=", "^=", "++"];

/// Operators between two operands, and what they become.
const BINARY: [(&str, &[&str]); 17] = [
    ("+", &["-"]),
    ("-", &["+"]),
    ("*", &["/"]),
    ("/", &["*"]),
    ("%", &["/"]),
    ("<", &["<=", ">="]),
    (">", &[">=", "<="]),
    ("<=", &["<", ">"]),
    (">=", &[">", "<"]),
    ("==", &["!="]),
    ("!=", &["=="]),
    ("&&", &["||"]),
    ("||", &["&&"]),
    ("&", &["|"]),
    ("|", &["&"]),
    ("^", &["|"]),
    ("<<", &[">>"]),
];

/// Assignments, and what they become.
const ASSIGNMENTS: [(&str, &[&str]); 2] = [("+=", &["-=", "="]), ("=", &[])];

/// Functions, and what they become.
const FUNCTIONS: [(&str, &str); 4] = [("min", "max"), ("max", "min"), ("true", "false"), ("false", "true")];

/// Names that are followed by types in angle brackets.
const GENERIC: [&str; 7] = ["array", "atomic", "bitcast", "var", "vec2", "vec3", "vec4"];

/// First words of lines that are left alone: declarations without a value of their own. (Overrides are always given one.)
const DECLARATIONS: [&str; 6] = ["alias", "import", "override", "struct", "enable", "@"];

/// Every mutation of a line: what it becomes. None for declarations and comments.
pub fn mutations(line: &str) -> Vec<String> {
    // A condition stays.
    if let Some((condition, rest)) = line.strip_prefix("@if(").and_then(|line| line.split_once(") ")) {
        let under = |line: String| if line.is_empty() { line } else { format!("@if({condition}) {line}") };
        return mutations(rest).into_iter().map(under).collect();
    }
    let code = line.split("//").next().unwrap_or_default();
    if DECLARATIONS.iter().any(|word| code.trim_start().starts_with(word)) {
        return Vec::new();
    }
    let tokens = tokens(code);
    let mut found = Vec::new();
    for (i, token) in tokens.iter().enumerate() {
        let replaced = |new: &str| (token.range.clone(), new.to_owned());
        match token.kind {
            TokenKind::Number => found.extend(numbers(token.text).iter().map(|new| replaced(new))),
            TokenKind::Name => {
                found.extend(FUNCTIONS.iter().filter(|(of, _)| *of == token.text).map(|(_, to)| replaced(to)))
            }
            TokenKind::Sign => {
                let table: &[(&str, &[&str])] = if follows_operand(&tokens, i) { &BINARY } else { &[] };
                let rows = table.iter().chain(&ASSIGNMENTS).filter(|(of, _)| *of == token.text);
                found.extend(rows.flat_map(|(_, to)| to.iter()).map(|to| replaced(to)));
                found.extend((token.text == ">>").then(|| replaced("<<")));
                found.extend((token.text == "!").then(|| replaced("")));
                found.extend(bracketed(code, &tokens, i));
            }
        }
    }
    found.extend(without_statement(code, &tokens));
    let applied = |(range, new): (Range<usize>, String)| {
        let mut mutant = line.to_owned();
        mutant.replace_range(range, &new);
        mutant
    };
    let mut lines: Vec<String> = found.into_iter().map(applied).collect();
    lines.dedup();
    lines
}

fn tokens(code: &str) -> Vec<Token<'_>> {
    let mut tokens = Vec::new();
    let mut at = 0;
    while let Some(first) = code[at..].chars().next() {
        let rest = &code[at..];
        let run = |of: fn(char) -> bool| rest.find(|c| !of(c)).unwrap_or(rest.len());
        let (kind, length) = match first {
            c if c.is_whitespace() => {
                at += c.len_utf8();
                continue;
            }
            c if c.is_ascii_digit() => (TokenKind::Number, run(|c| c.is_alphanumeric() || c == '.')),
            c if c.is_alphanumeric() || c == '_' => (TokenKind::Name, run(|c| c.is_alphanumeric() || c == '_')),
            c => (
                TokenKind::Sign,
                LONG_SIGNS.iter().find(|sign| rest.starts_with(**sign)).map_or(c.len_utf8(), |s| s.len()),
            ),
        };
        let previous: Option<&Token> = tokens.last();
        if rest.starts_with('<') && previous.is_some_and(|token| GENERIC.contains(&token.text)) {
            at += types_length(rest);
            continue;
        }
        tokens.push(Token { kind, text: &rest[..length], range: at..at + length });
        at += length;
    }
    tokens
}

/// Length of `<...>` at the beginning of a text.
fn types_length(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        depth += i32::from(c == '<') - i32::from(c == '>');
        if depth == 0 {
            return i + 1;
        }
    }
    text.len()
}

/// Whether a value stands before the token, so that an operator has two operands.
fn follows_operand(tokens: &[Token<'_>], i: usize) -> bool {
    i.checked_sub(1).is_some_and(|before| match tokens[before].kind {
        TokenKind::Number => true,
        TokenKind::Name => tokens[before].text != "return",
        TokenKind::Sign => [")", "]"].contains(&tokens[before].text),
    })
}

/// What a literal becomes: the next number and the one before, of integers; 1 more, of others.
fn numbers(text: &str) -> Vec<String> {
    let digits = text.trim_end_matches(['u', 'i', 'f']);
    let Ok(value) = digits.parse::<u32>() else { return vec![format!("({text} + 1{})", suffix(text))] };
    let end = &text[digits.len()..];
    let neighbours = [value.checked_add(1), value.checked_sub(1)];
    neighbours.into_iter().flatten().map(|value| format!("{value}{end}")).collect()
}

/// What makes a literal of the same type.
fn suffix(text: &str) -> &'static str {
    if text.starts_with("0x") { "u" } else { ".0" }
}

/// Mutations of what the bracket at token `i` encloses.
fn bracketed(code: &str, tokens: &[Token<'_>], i: usize) -> Vec<(Range<usize>, String)> {
    let name = i.checked_sub(1).map_or("", |before| tokens[before].text);
    let open = tokens[i].text;
    if !["(", "["].contains(&open) {
        return Vec::new();
    }
    let Some(arguments) = arguments(tokens, i) else { return Vec::new() };
    let text = |range: &Range<usize>| &code[range.clone()];
    let shifted = |range: &Range<usize>| (range.clone(), format!("({}) + 1u", text(range)));
    match (open, name, arguments.as_slice()) {
        ("[", _, [index]) => vec![shifted(index)],
        ("(", "select", [no, yes, _]) => {
            vec![(no.start..yes.end, format!("{}, {}", text(yes), text(no)))]
        }
        ("(", "if", [condition]) => ["true", "false"].map(|value| (condition.clone(), value.to_owned())).into(),
        ("(", "while", [condition]) => vec![(condition.clone(), "false".to_owned())],
        // Tensors are accessed by index, all else by its work.
        ("(", name, [index, ..]) if is_access(name) && text(index) != "work" && !text(index).contains(':') => {
            vec![shifted(index)]
        }
        _ => Vec::new(),
    }
}

fn is_access(name: &str) -> bool {
    ["load_", "store_"].iter().any(|prefix| name.starts_with(prefix))
}

/// Where the arguments in the bracket at token `i` lie; `None` when it closes on another line.
fn arguments(tokens: &[Token<'_>], i: usize) -> Option<Vec<Range<usize>>> {
    let mut arguments = Vec::new();
    let mut depth = 0;
    let mut begin = i + 1;
    for (j, token) in tokens.iter().enumerate().skip(i) {
        let step = match token.text {
            "(" | "[" => 1,
            ")" | "]" => -1,
            _ => 0,
        };
        depth += step;
        let ends = depth == 0 || (depth == 1 && token.text == ",");
        if ends && j > begin {
            arguments.push(tokens[begin].range.start..tokens[j - 1].range.end);
        }
        if depth == 0 {
            return Some(arguments);
        }
        if ends {
            begin = j + 1;
        }
    }
    None
}

/// The line without its statement: a call or an assignment that stands on one line. Declarations must stay, and returns.
fn without_statement(code: &str, tokens: &[Token<'_>]) -> Option<(Range<usize>, String)> {
    let (first, last) = (tokens.first()?, tokens.last()?);
    let stays = ["let", "var", "const", "return", "fn", "case", "default", ")"].contains(&first.text);
    let balanced = |open, close| code.matches(open).count() == code.matches(close).count();
    let statement = first.kind == TokenKind::Name && last.text == ";" && balanced('(', ')') && balanced('{', '}');
    // A part of an expression that began on a line before is no statement.
    let complete = tokens.iter().any(|token| ["=", "+="].contains(&token.text)) || tokens.get(1)?.text == "(";
    (statement && complete && !stays).then(|| (first.range.start..last.range.end, String::new()))
}

#[cfg(test)]
mod tests {
    use super::mutations;

    #[test]
    fn changes_what_there_is() {
        let of = |line: &str| mutations(line);
        assert_eq!(of("let a = b + c;"), ["let a = b - c;"]);
        assert_eq!(of("workgroupBarrier();"), [""]);
        assert_eq!(of("x += 2u;"), ["x -= 2u;", "x = 2u;", "x += 3u;", "x += 1u;", ""]);
        assert_eq!(of("return vec4<u32>(-a);"), [] as [&str; 0]);
        assert_eq!(of("let v = select(a, f(b, c), d);"), ["let v = select(f(b, c), a, d);"]);
        assert_eq!(of("if (a < b) {"), ["if (true) {", "if (false) {", "if (a <= b) {", "if (a >= b) {"]);
        assert_eq!(of("let w = p[i];"), ["let w = p[(i) + 1u];"]);
        assert_eq!(of("return load_x(at);"), ["return load_x((at) + 1u);"]);
        assert_eq!(of("let h = 0x7fu & m;"), ["let h = (0x7fu + 1u) & m;", "let h = 0x7fu | m;"]);
        assert_eq!(of("let f = 0.5 * g;"), ["let f = (0.5 + 1.0) * g;", "let f = 0.5 / g;"]);
        assert_eq!(of("let d$k = $ku * s;"), ["let d$k = $ku / s;"]);
        assert_eq!(of("fn four(state: State, at: vec4<u32>) -> State {"), [] as [&str; 0]);
        assert_eq!(of("    column: u32,"), [] as [&str; 0]);
        assert_eq!(of("// a + b"), [] as [&str; 0]);
        assert_eq!(of("override WORKGROUP: u32 = 256u;"), [] as [&str; 0]);
        assert_eq!(of("if (!inside) {").last().unwrap(), "if (inside) {");
    }
}
