//! A file as the rules see it: names with their lines. Comments and texts are no names; what only tests compile is
//! marked. A tokenizer, not a search for text, so that `use std::{fs, io}` is found and a comment is not.
use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// One file.
#[derive(Debug)]
pub(super) struct Source {
    /// Relative to the top of the checkout, with slashes.
    pub(super) path: String,
    pub(super) text: String,
    pub(super) tokens: Vec<Token>,
    /// Why there are no tokens although it is a Rust file.
    pub(super) unreadable: Option<String>,
}

/// One name or sign.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) line: usize,
    pub(super) in_test: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    Word(String),
    Sign(char),
    Open(char),
    Close,
    /// A literal; its text never matters.
    Value,
}

/// A path in the code, such as `std::fs::read`, in full.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CodePath {
    pub(super) segments: Vec<String>,
    pub(super) line: usize,
    pub(super) in_test: bool,
}

impl Source {
    pub(super) fn new(path: &str, text: String) -> Self {
        let mut source = Self { path: path.to_owned(), text, tokens: Vec::new(), unreadable: None };
        if source.is_rust() {
            match source.text.parse::<TokenStream>() {
                Ok(stream) => flatten(stream, source.is_test_file(), &mut source.tokens),
                Err(error) => source.unreadable = Some(error.to_string()),
            }
        }
        source
    }

    pub(super) fn is_rust(&self) -> bool {
        self.path.ends_with(".rs")
    }

    /// Whether a whole file is compiled for tests only, by its name or folder.
    pub(super) fn is_test_file(&self) -> bool {
        let (folder, name) = self.path.rsplit_once('/').unwrap_or(("", &self.path));
        name == "tests.rs" || name.ends_with("_tests.rs") || folder.split('/').skip(1).any(|part| part == "tests")
    }

    /// Whether the file is the module, or inside it.
    pub(super) fn is_in(&self, room: &str) -> bool {
        self.path.strip_prefix(room).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
    }

    /// Every path in the code that has at least two segments, with `use` groups written out and `super` resolved.
    pub(super) fn paths(&self) -> Vec<CodePath> {
        let mut found = Vec::new();
        let mut at = 0;
        while at < self.tokens.len() {
            let starts = matches!(self.tokens[at].kind, Kind::Word(_)) && !self.continues(at);
            at = if starts { self.path_from(at, &[], &mut found) } else { at + 1 };
        }
        found.retain(|path| path.segments.len() > 1);
        for path in &mut found {
            self.resolve(&mut path.segments);
        }
        found
    }

    /// Whether the word at this place goes on from a path or is a field or method.
    fn continues(&self, at: usize) -> bool {
        let sign = |back: usize| at.checked_sub(back).map(|i| &self.tokens[i].kind);
        if sign(1) == Some(&Kind::Sign('.')) && sign(2) != Some(&Kind::Sign('.')) {
            return true;
        }
        // `a::b` and `<T>::b` go on; a leading `::b` starts.
        let after_colons = sign(1) == Some(&Kind::Sign(':')) && sign(2) == Some(&Kind::Sign(':'));
        after_colons && matches!(sign(3), Some(Kind::Word(_) | Kind::Sign('>') | Kind::Close))
    }

    /// Reads a path, and the tree below it if it is a `use` group; returns where reading goes on.
    fn path_from(&self, start: usize, prefix: &[String], found: &mut Vec<CodePath>) -> usize {
        let mut segments = prefix.to_vec();
        let mut at = start;
        while let Some(Token { kind, .. }) = self.tokens.get(at) {
            match kind {
                Kind::Word(word) => segments.push(word.clone()),
                Kind::Sign('*') if at > start || !prefix.is_empty() => segments.push("*".to_owned()),
                Kind::Open('{') if at > start => return self.group(at, &segments, found),
                _ => break,
            }
            at += 1;
            if !self.colons(at) {
                break;
            }
            at += 2;
        }
        let first = &self.tokens[start];
        if segments.len() > prefix.len() {
            found.push(CodePath { segments, line: first.line, in_test: first.in_test });
        }
        at.max(start + 1)
    }

    /// The branches of `a::{b, c::{d, e}}`; returns where reading goes on.
    fn group(&self, open: usize, prefix: &[String], found: &mut Vec<CodePath>) -> usize {
        let mut at = open + 1;
        while let Some(token) = self.tokens.get(at) {
            at = match &token.kind {
                Kind::Close => return at + 1,
                // `b as c`: the new name is no branch.
                Kind::Word(word) if word == "as" => at + 2,
                Kind::Word(_) | Kind::Sign('*') => self.path_from(at, prefix, found),
                _ => at + 1,
            };
        }
        at
    }

    fn colons(&self, at: usize) -> bool {
        let is_colon = |i: usize| self.tokens.get(i).is_some_and(|t| t.kind == Kind::Sign(':'));
        is_colon(at) && is_colon(at + 1)
    }

    /// `super::x` and `self::x` as `crate::…::x`, for a module at the top of its file.
    fn resolve(&self, segments: &mut Vec<String>) {
        let relative = segments.iter().take_while(|s| *s == "super" || *s == "self").count();
        if relative == 0 {
            return;
        }
        let mut module = self.module();
        for _ in segments.iter().take(relative).filter(|s| *s == "super") {
            module.pop();
        }
        module.insert(0, "crate".to_owned());
        segments.splice(..relative, module);
    }

    /// The module this file is: `lb-userspace/src/watch/files.rs` → watch, files.
    fn module(&self) -> Vec<String> {
        let inside = self.path.split_once("/src/").map_or("", |(_, inside)| inside);
        let mut parts: Vec<_> = inside.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if matches!(parts.last().map(String::as_str), Some("mod" | "lib" | "main")) {
            parts.pop();
        }
        parts
    }
}

/// One list of tokens, with brackets as tokens of their own. An item under `#[cfg(test)]` is a test to its end.
fn flatten(stream: TokenStream, in_test: bool, out: &mut Vec<Token>) {
    let mut marked = false;
    for tree in stream {
        let line = tree.span().start().line;
        let in_test_here = in_test || marked;
        let mut push = |kind, line| out.push(Token { kind, line, in_test: in_test_here });
        match tree {
            TokenTree::Ident(word) => push(Kind::Word(word.to_string().trim_start_matches("r#").to_owned()), line),
            TokenTree::Literal(_) => push(Kind::Value, line),
            TokenTree::Punct(sign) => {
                push(Kind::Sign(sign.as_char()), line);
                marked &= sign.as_char() != ';';
            }
            TokenTree::Group(group) => {
                let delimiter = group.delimiter();
                let end = group.span_close().end().line;
                marked |= delimiter == Delimiter::Bracket && is_cfg_test(&group.stream());
                push(Kind::Open(opening(delimiter)), line);
                flatten(group.stream(), in_test_here, out);
                out.push(Token { kind: Kind::Close, line: end, in_test: in_test_here });
                marked &= delimiter != Delimiter::Brace;
            }
        }
    }
}

fn opening(delimiter: Delimiter) -> char {
    match delimiter {
        Delimiter::Parenthesis => '(',
        Delimiter::Brace => '{',
        Delimiter::Bracket => '[',
        Delimiter::None => ' ',
    }
}

/// `cfg(test)` and `cfg(all(test, …))`.
fn is_cfg_test(attribute: &TokenStream) -> bool {
    let text: String = attribute.to_string().split_whitespace().collect();
    text == "cfg(test)" || text.starts_with("cfg(all(test,")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(path: &str, text: &str) -> Vec<String> {
        let source = Source::new(path, text.to_owned());
        assert_eq!(source.unreadable, None);
        source.paths().iter().map(|p| p.segments.join("::")).collect()
    }

    #[test]
    fn groups_are_written_out_and_comments_are_not_read() {
        let text =
            "// use std::env;\nuse std::{fs, io::{self, Read as _}, net::*};\nfn f() { let x = \"std::os\"; a.b(); }";
        assert_eq!(
            paths("lb-userspace/src/plan.rs", text),
            ["std::fs", "std::io::self", "std::io::Read", "std::net::*"]
        );
    }

    #[test]
    fn paths_are_found_in_macros_attributes_and_types() {
        let text =
            "#[tokio::main] fn f(x: ::std::fs::File) { println!(\"{}\", <T as aya::Pod>::X); 0..std::mem::take(y) }";
        assert_eq!(
            paths("lb-userspace/src/plan.rs", text),
            ["tokio::main", "std::fs::File", "aya::Pod", "std::mem::take"]
        );
    }

    #[test]
    fn super_is_resolved_from_the_files_place() {
        assert_eq!(paths("lb-userspace/src/model.rs", "use super::bpf::Map;"), ["crate::bpf::Map"]);
        assert_eq!(
            paths("lb-userspace/src/watch/files.rs", "use super::super::store::Store;"),
            ["crate::store::Store"]
        );
        assert_eq!(paths("lb-userspace/src/watch/mod.rs", "use self::files::X;"), ["crate::watch::files::X"]);
    }

    #[test]
    fn a_test_is_marked_to_its_end_and_not_beyond() {
        let text =
            "fn a() {}\n#[cfg(test)]\nmod tests { fn b() { if x {} } }\nfn c() {}\n#[cfg(test)]\nmod d;\nfn e() {}";
        let source = Source::new("lb-common/src/ip.rs", text.to_owned());
        let in_test = |name: &str| {
            let is_it = |t: &&Token| t.kind == Kind::Word(name.to_owned());
            source.tokens.iter().find(is_it).unwrap().in_test
        };
        for (name, expected) in [("a", false), ("b", true), ("c", false), ("d", true), ("e", false)] {
            assert_eq!(in_test(name), expected, "{name}");
        }
    }

    #[test]
    fn a_room_is_a_file_or_a_folder() {
        let source = |path| Source::new(path, String::new());
        assert!(source("lb-userspace/src/bpf.rs").is_in("lb-userspace/src/bpf"));
        assert!(source("lb-userspace/src/bpf/attach.rs").is_in("lb-userspace/src/bpf"));
        assert!(!source("lb-userspace/src/bpffs.rs").is_in("lb-userspace/src/bpf"));
    }
}
