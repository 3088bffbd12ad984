//! The shape of the crate: which part may know which. A part is a module at the top of the crate; it knows what its
//! code names, also by way of `super`, of an alias or of a re-export that somebody else offers.
//!
//! What only tests are built from is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use proc_macro2::{TokenStream, TokenTree};
use syn::visit::{self, Visit};
use syn::{Attribute, Item, ItemMod, ItemUse, Macro, UseTree, Visibility};

/// A part and what it may name of other parts and of other crates, by the beginning of the path. Small parts that
/// know nobody are named by everybody.
const MAY_KNOW: [(&str, &[&str]); 10] = [
    ("disk", &[]),
    ("layers", &["disk"]),
    ("check", &["disk", "layers", "pydisk_kernel::threads"]),
    (
        "python",
        &[
            "disk",
            "pydisk_kernel::process::coarse_milliseconds",
            "pydisk_kernel::single_thread",
            "pydisk_kernel::threads",
            "pyo3",
        ],
    ),
    ("frontends", &["disk", "pydisk_kernel", "rustls", "fuser"]),
    (
        "attachment",
        &[
            "frontends::endpoint",
            "frontends::identity",
            "frontends::target",
            "frontends::nbd::address",
            "frontends::nbd::config",
            "layers::named",
            "pydisk_kernel::activation",
            "pydisk_kernel::unforked",
        ],
    ),
    (
        "bench",
        &["attachment", "frontends::nbd::client", "pydisk_kernel"],
    ),
    (
        "agent",
        &[
            "attachment",
            "frontends",
            "pydisk_kernel",
            "progress",
            "tokio",
        ],
    ),
    (
        "worker",
        &[
            "attachment",
            "disk",
            "frontends",
            "layers",
            "pydisk_kernel",
            "python",
        ],
    ),
    ("progress", &["attachment::step"]),
];

/// Parts that know nobody, and other crates that are nothing to keep apart.
const EVERYBODYS: [&str; 8] = [
    "escape",
    "interrupt",
    "logging",
    "params",
    "refusal",
    "sync",
    "Refusal",
    "chance",
];

/// Crates that are kept apart.
const CRATES: [&str; 5] = ["pydisk_kernel", "pyo3", "rustls", "fuser", "tokio"];

type Name = Vec<String>;

/// What the product's code of a crate names, by module.
#[derive(Default)]
struct Arrows {
    /// A module, and a path that it names, from the crate's root or from another crate's.
    named: BTreeSet<(Name, Name)>,
    /// What a module offers that is somebody else's: its name there, and the path it stands for.
    offered: BTreeMap<Name, Name>,
}

impl Arrows {
    /// Of the crate whose root is this file.
    fn of(root: &Path) -> Self {
        let mut arrows = Self::default();
        arrows.read(root, root.parent().unwrap(), &Vec::new());
        arrows
    }

    /// `inside` is the folder of the files of its own modules.
    fn read(&mut self, file: &Path, inside: &Path, module: &Name) {
        let text = fs::read_to_string(file).unwrap();
        let file = syn::parse_file(&text).unwrap_or_else(|error| panic!("{file:?}: {error}"));
        self.items(&file.items, inside, module);
    }

    fn items(&mut self, items: &[Item], inside: &Path, module: &Name) {
        let mut reader = Reader {
            arrows: self,
            module: module.clone(),
            inside: inside.to_owned(),
        };
        for item in items {
            reader.visit_item(item);
        }
    }

    /// What a path stands for, when it goes by what modules offer.
    fn resolved(&self, path: &Name) -> Name {
        let mut path = path.clone();
        // A circle of offers does not compile. A function that a module offers may have the name of the module that it
        // comes from: then the path does not get any further.
        while let Some((offer, meant)) = (1..=path.len())
            .rev()
            .find_map(|len| self.offered.get_key_value(&path[..len]))
            && !meant.starts_with(offer)
        {
            path = meant.iter().chain(&path[offer.len()..]).cloned().collect();
        }
        path
    }
}

struct Reader<'a> {
    arrows: &'a mut Arrows,
    module: Name,
    inside: PathBuf,
}

fn for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        attribute.path().is_ident("cfg")
            && quote_of(attribute)
                .split(|char: char| !char.is_alphanumeric())
                .any(|word| word == "test")
    })
}

fn quote_of(attribute: &Attribute) -> String {
    attribute
        .meta
        .require_list()
        .map(|list| list.tokens.to_string())
        .unwrap_or_default()
}

impl Reader<'_> {
    /// The path from the crate's root, or from another crate that is kept apart; none for what is neither.
    fn absolute(&self, path: &[String]) -> Option<Name> {
        let first = path.first()?;
        if CRATES.contains(&&**first) {
            return Some(path.to_vec());
        }
        let mut base = match &**first {
            "crate" => Vec::new(),
            "self" => self.module.clone(),
            "super" => self.module.clone(),
            _ => return None,
        };
        let mut rest = path;
        while let [word, behind @ ..] = rest {
            match &**word {
                "crate" | "self" => {}
                "super" => {
                    base.pop()?;
                }
                _ => break,
            }
            rest = behind;
        }
        base.extend(rest.iter().cloned());
        Some(base)
    }

    fn note(&mut self, path: &[String]) {
        if let Some(path) = self.absolute(path).filter(|path| !path.is_empty()) {
            self.arrows.named.insert((self.module.clone(), path));
        }
    }

    fn imports(&mut self, tree: &UseTree, before: &[String], offers: bool) {
        let with = |name: String| before.iter().cloned().chain([name]).collect::<Name>();
        match tree {
            UseTree::Path(path) => self.imports(&path.tree, &with(path.ident.to_string()), offers),
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.imports(tree, before, offers);
                }
            }
            UseTree::Name(name) if name.ident == "self" => {
                self.import(before, before.last(), offers)
            }
            UseTree::Name(name) => {
                let path = with(name.ident.to_string());
                self.import(&path, path.last(), offers);
            }
            UseTree::Rename(rename) => {
                let path = with(rename.ident.to_string());
                self.import(&path, Some(&rename.rename.to_string()), offers);
            }
            UseTree::Glob(_) => self.note(before),
        }
    }

    fn import(&mut self, path: &[String], called: Option<&String>, offers: bool) {
        self.note(path);
        // `pub use child::Name`: a path that begins with a module of its own.
        let meant = self.absolute(path).unwrap_or_else(|| {
            let own = self.module.iter().cloned();
            own.chain(path.iter().cloned()).collect()
        });
        if offers && let Some(called) = called {
            let mut offer = self.module.clone();
            offer.push(called.clone());
            if offer != meant {
                self.arrows.offered.insert(offer, meant);
            }
        }
    }
}

impl<'ast> Visit<'ast> for Reader<'_> {
    fn visit_item(&mut self, item: &'ast Item) {
        let attributes = match item {
            Item::Mod(it) => &it.attrs,
            Item::Use(it) => &it.attrs,
            Item::Fn(it) => &it.attrs,
            Item::Impl(it) => &it.attrs,
            Item::Struct(it) => &it.attrs,
            Item::Const(it) => &it.attrs,
            _ => return visit::visit_item(self, item),
        };
        if !for_tests(attributes) {
            visit::visit_item(self, item);
        }
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        let name = item.ident.to_string();
        let mut module = self.module.clone();
        module.push(name.clone());
        let inside = self.inside.join(&name);
        match &item.content {
            Some((_, items)) => self.arrows.items(items, &inside, &module),
            None => {
                let file = self.inside.join(format!("{name}.rs"));
                let file = if file.exists() {
                    file
                } else {
                    inside.join("mod.rs")
                };
                self.arrows.read(&file, &inside, &module);
            }
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        let offers = !matches!(item.vis, Visibility::Inherited);
        self.imports(&item.tree, &[], offers);
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let words: Name = path
            .segments
            .iter()
            .map(|it| it.ident.to_string())
            .collect();
        self.note(&words);
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast Macro) {
        visit::visit_macro(self, item);
        self.tokens(item.tokens.clone());
    }
}

impl Reader<'_> {
    /// Paths among the words of a macro.
    fn tokens(&mut self, tokens: TokenStream) {
        let mut path = Vec::new();
        let mut colons = 0;
        for token in tokens {
            match token {
                TokenTree::Ident(word) if path.is_empty() || colons == 2 => {
                    path.push(word.to_string())
                }
                TokenTree::Punct(it) if it.as_char() == ':' => {
                    colons += 1;
                    continue;
                }
                TokenTree::Ident(word) => {
                    self.note(&path);
                    path = vec![word.to_string()];
                }
                other => {
                    self.note(&path);
                    path.clear();
                    if let TokenTree::Group(group) = other {
                        self.tokens(group.stream());
                    }
                }
            }
            colons = 0;
        }
        self.note(&path);
    }
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whether a part may name this, which is not its own.
fn allowed(may: &[&str], path: &Name) -> bool {
    let path = path.join("::");
    may.iter()
        .any(|begin| path == *begin || path.starts_with(&format!("{begin}::")))
}

#[test]
fn the_parts_know_what_they_may_and_nothing_else() {
    let arrows = Arrows::of(&source("src/lib.rs"));
    let mut broken = BTreeSet::new();
    for (module, path) in &arrows.named {
        let Some(part) = module.first() else {
            continue;
        };
        let Some((_, may)) = MAY_KNOW.iter().find(|(name, _)| name == part) else {
            continue;
        };
        let meant = arrows.resolved(path);
        let other = meant.first().map_or("", |first| first);
        if other != part
            && !EVERYBODYS.contains(&other)
            && !other.is_empty()
            && !allowed(may, &meant)
        {
            broken.insert(format!("{} names {}", module.join("::"), meant.join("::")));
        }
    }
    let broken: Vec<_> = broken.into_iter().collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn parts_that_everybody_names_know_nobody() {
    let arrows = Arrows::of(&source("src/lib.rs"));
    for (module, path) in &arrows.named {
        let part = module.first().map_or("", |part| part);
        if EVERYBODYS.contains(&part) {
            let meant = arrows.resolved(path);
            let other = meant.first().map_or("", |other| other);
            let knows = MAY_KNOW.iter().any(|(name, _)| *name == other);
            assert!(!knows, "{} names {}", module.join("::"), meant.join("::"));
        }
    }
}

fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// What tells front ends from each other. Others ask the target or the endpoint.
const VARIANTS: [&str; 7] = [
    "Target::Ublk",
    "Target::Nbd",
    "Target::Loop",
    "Target::File",
    "Target::Server",
    "Endpoint::Device",
    "Endpoint::Server",
];

/// Whether a file's name, or that of a folder in which it lies, says that only tests are built from it.
fn is_for_tests(file: &Path, root: &Path) -> bool {
    let inside = file.strip_prefix(root).unwrap().with_extension("");
    inside
        .iter()
        .any(|name| name == "tests" || name == "testing")
}

/// Tests may build what they need.
#[test]
fn only_front_ends_know_which_of_them_a_target_is() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    files(&root.join("src"), &mut found);
    found.retain(|file| !file.starts_with(root.join("src/frontends")) && !is_for_tests(file, root));
    assert!(found.iter().any(|file| file.ends_with("worker/mod.rs")));
    for file in found {
        let text = fs::read_to_string(&file).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let broken = VARIANTS.iter().find(|variant| code.contains(*variant));
        assert_eq!(broken, None, "{}", file.display());
    }
}

#[test]
fn the_kernel_crate_knows_nothing_of_ours() {
    let arrows = Arrows::of(&source("kernel/src/lib.rs"));
    assert!(!arrows.named.is_empty());
    let other = arrows
        .named
        .iter()
        .find(|(_, path)| ["pyo3", "fuser", "rustls", "pydisk"].contains(&&*path[0]));
    assert_eq!(other, None);
}

#[test]
fn a_name_that_somebody_offers_is_followed() {
    let mut arrows = Arrows::default();
    let here = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| fs::write(here.path().join(name), text).unwrap();
    write("lib.rs", "pub mod a; mod b; mod c; #[cfg(test)] mod tests;");
    write(
        "a.rs",
        "pub(crate) use crate::b::Secret as Known; pub fn f() { log::info!(\"{}\", super::c::g()); }",
    );
    write("b.rs", "pub use pydisk_kernel::process; pub struct Secret;");
    write(
        "c.rs",
        "use crate::{a::{self, Known}, b::process::x}; type T = Known; mod d { use super::super::a; }",
    );
    arrows.read(&here.path().join("lib.rs"), here.path(), &Vec::new());
    let named: BTreeSet<String> = arrows
        .named
        .iter()
        .map(|(module, path)| {
            format!(
                "{} -> {}",
                module.join("::"),
                arrows.resolved(path).join("::")
            )
        })
        .collect();
    for arrow in [
        "a -> b::Secret",
        "a -> c::g",
        "b -> pydisk_kernel::process",
        "c -> a",
        "c -> b::Secret",
        "c -> pydisk_kernel::process::x",
        "c::d -> a",
    ] {
        assert!(named.contains(arrow), "{arrow} is not in {named:#?}");
    }
}
