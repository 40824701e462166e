//! The formulas of the table of families: a size of a model, or a question about one of its layers, as a text over the
//! settings of its config.json. The text is also what a plan gives as the source of a number.
//!
//! ```text
//! choice  = any [ "?" choice ":" choice ]            if ... then ... else
//! any     = or ( "??" or )*                          the first that is there
//! or      = and ( "or" and )*
//! and     = not ( "and" not )*
//! not     = [ "not" ] compare
//! compare = sum [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" ) sum ]
//! sum     = product ( ( "+" | "-" ) product )*
//! product = place ( ( "*" | "/" | "%" ) place )*     "/" leaves no fraction
//! place   = one ( "[" choice "]" | "." name )*       of a list, a letter of a text, or a setting of what is nested
//! one     = number | "'" text "'" | "$" setting ( "." setting )* | name | "len(" choice ")" | "(" choice ")"
//! ```
//!
//! Numbers are whole. A setting that is absent or null is *missing*: `??` passes it by, a condition takes it as false, and
//! arithmetic refuses it.

use std::fmt;

/// A formula that was read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Formula {
    pub(super) text: String,
    pub(super) root: Node,
}

/// One operation and what it works on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Node {
    Number(i64),
    Text(String),
    /// Of config.json; dots lead into what is nested.
    Setting(String),
    /// A formula of the same family, or `layer`.
    Name(String),
    Length(Box<Self>),
    Not(Box<Self>),
    Choice(Box<[Self; 3]>),
    Pair(Operator, Box<[Self; 2]>),
}

/// What is done with two values.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Operator {
    Else,
    Or,
    And,
    Equal,
    Unequal,
    Less,
    LessOrEqual,
    More,
    MoreOrEqual,
    In,
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Index,
}

/// Operators from those that bind loosest.
const LEVELS: [&[(&str, Operator)]; 6] = [
    &[("??", Operator::Else)],
    &[("or", Operator::Or)],
    &[("and", Operator::And)],
    &[
        ("==", Operator::Equal),
        ("!=", Operator::Unequal),
        ("<=", Operator::LessOrEqual),
        (">=", Operator::MoreOrEqual),
        ("<", Operator::Less),
        (">", Operator::More),
        ("in", Operator::In),
    ],
    &[("+", Operator::Add), ("-", Operator::Subtract)],
    &[("*", Operator::Multiply), ("/", Operator::Divide), ("%", Operator::Remainder)],
];
/// Of [`LEVELS`]: before what this level binds may stand a `not`.
const COMPARING: usize = 3;
/// Deeper than any formula of the table; a limit for texts that are none.
const DEEPEST: u32 = 64;

impl Formula {
    /// Reads a text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let mut reader = Reader { text, at: 0, depth: 0 };
        let root = reader.choice()?;
        reader.skip_space();
        if reader.at < text.len() {
            return Err(reader.unexpected("the end"));
        }
        Ok(Self { text: text.to_owned(), root })
    }
}

impl fmt::Display for Formula {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str(&self.text)
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
    depth: u32,
}

impl Reader<'_> {
    fn rest(&self) -> &str {
        &self.text[self.at..]
    }

    fn skip_space(&mut self) {
        self.at = self.text.len() - self.rest().trim_start().len();
    }

    fn unexpected(&self, wanted: &str) -> String {
        format!("`{}`: {wanted} should stand at `{}`", self.text, self.rest())
    }

    /// Takes a sign or a word, if it stands here.
    fn takes(&mut self, sign: &str) -> bool {
        self.skip_space();
        let Some(after) = self.rest().strip_prefix(sign) else { return false };
        let is_word = sign.ends_with(|last: char| last.is_ascii_alphabetic());
        // `in` is not the beginning of `index`, nor `?` that of `??`.
        if (is_word && after.starts_with(is_of_name)) || (sign == "?" && after.starts_with('?')) {
            return false;
        }
        self.at += sign.len();
        true
    }

    fn needs(&mut self, sign: &str) -> Result<(), String> {
        if self.takes(sign) { Ok(()) } else { Err(self.unexpected(&format!("`{sign}`"))) }
    }

    fn choice(&mut self) -> Result<Node, String> {
        self.depth += 1;
        if self.depth > DEEPEST {
            return Err(format!("`{}` is nested too deep", self.text));
        }
        let mut node = self.level(0)?;
        if self.takes("?") {
            let then = self.choice()?;
            self.needs(":")?;
            node = Node::Choice(Box::new([node, then, self.choice()?]));
        }
        self.depth -= 1;
        Ok(node)
    }

    fn level(&mut self, level: usize) -> Result<Node, String> {
        let Some(operators) = LEVELS.get(level) else { return self.place() };
        if level == COMPARING && self.takes("not") {
            return Ok(Node::Not(Box::new(self.level(level)?)));
        }
        let mut node = self.level(level + 1)?;
        while let Some(&(_, operator)) = operators.iter().find(|(sign, _)| self.takes(sign)) {
            node = Node::Pair(operator, Box::new([node, self.level(level + 1)?]));
        }
        Ok(node)
    }

    fn place(&mut self) -> Result<Node, String> {
        let mut node = self.one()?;
        loop {
            let index = if self.takes("[") {
                let index = self.choice()?;
                self.needs("]")?;
                index
            } else if self.takes(".") {
                Node::Text(self.word(false))
            } else {
                return Ok(node);
            };
            node = Node::Pair(Operator::Index, Box::new([node, index]));
        }
    }

    fn one(&mut self) -> Result<Node, String> {
        if self.takes("(") {
            let node = self.choice()?;
            self.needs(")")?;
            return Ok(node);
        }
        if self.takes("'") {
            let end = self.rest().find('\'').ok_or_else(|| self.unexpected("a closing `'`"))?;
            let text = self.rest()[..end].to_owned();
            self.at += end + 1;
            return Ok(Node::Text(text));
        }
        if self.takes("len(") {
            let node = self.choice()?;
            self.needs(")")?;
            return Ok(Node::Length(Box::new(node)));
        }
        let is_setting = self.takes("$");
        let word = self.word(is_setting);
        match word.as_str() {
            "" => Err(self.unexpected("a number, a name or a `$setting`")),
            _ if is_setting => Ok(Node::Setting(word)),
            _ if word.starts_with(|first: char| first.is_ascii_digit()) => {
                word.parse().map(Node::Number).map_err(|_| format!("`{}`: `{word}` is no number", self.text))
            }
            _ => Ok(Node::Name(word)),
        }
    }

    fn word(&mut self, dotted: bool) -> String {
        let end = self.rest().find(|letter| !(is_of_name(letter) || (dotted && letter == '.')));
        let word = self.rest()[..end.unwrap_or(self.rest().len())].to_owned();
        self.at += word.len();
        word
    }
}

fn is_of_name(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || letter == '_'
}
