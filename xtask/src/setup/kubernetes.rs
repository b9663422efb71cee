//! The programs of a real Kubernetes control plane, for the lab: taken from `KUBEBUILDER_ASSETS`, from a cache, or built
//! from their sources through the Go module proxy. `tests/kubernetes/go.mod` says which versions.
use std::{
    collections::hash_map::DefaultHasher,
    env, fs,
    hash::{Hash, Hasher},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{failure::not_possible, process, workspace};

use super::{found, go, packages};

/// The programs, and the Go packages they are built from.
const PROGRAMS: &[(&str, &str)] = &[
    ("etcd", "go.etcd.io/etcd/server/v3"),
    ("helm", "helm.sh/helm/v3/cmd/helm"),
    ("kube-apiserver", "k8s.io/kubernetes/cmd/kube-apiserver"),
    ("kube-controller-manager", "k8s.io/kubernetes/cmd/kube-controller-manager"),
    ("kube-proxy", "k8s.io/kubernetes/cmd/kube-proxy"),
    ("kubectl", "k8s.io/kubernetes/cmd/kubectl"),
];

/// A folder of ready programs, as controller-runtime's envtest knows it.
const ASSETS_VARIABLE: &str = "KUBEBUILDER_ASSETS";

/// Finds or builds all programs, and links them where the tests look for them.
pub(crate) fn prepare() -> Result<()> {
    let module = Module::read(&workspace::root().join("tests/kubernetes"))?;
    let assets = assets()?;
    let cache = Cache::new(&module)?;
    let ready = |name: &str| {
        let places = assets.iter().chain([&cache.bin]);
        places.map(|dir| dir.join(name)).find(|file| packages::is_program(file))
    };
    let lacking = || PROGRAMS.iter().copied().filter(|(name, _)| ready(name).is_none()).collect::<Vec<_>>();
    if !lacking().is_empty() {
        let _lock = cache.lock()?;
        // While this one waited for the lock another may have built them.
        let lacking = lacking();
        if !lacking.is_empty() {
            build(&module, &cache, &lacking)?;
        }
    }
    let links = workspace::kubernetes();
    fs::create_dir_all(&links).with_context(|| format!("cannot make {}", links.display()))?;
    for (name, _) in PROGRAMS {
        let program = ready(name).with_context(|| format!("{name} was built and is not there"))?;
        link(&program, &links.join(name))?;
    }
    let from = assets.map_or(String::new(), |dir| format!("{} ({ASSETS_VARIABLE}) and ", dir.display()));
    found("Kubernetes", &format!("{}, {from}{}", module.kubernetes, cache.bin.display()));
    Ok(())
}

/// The folder that the user names, if any.
fn assets() -> Result<Option<PathBuf>> {
    let Some(dir) = env::var_os(ASSETS_VARIABLE).filter(|dir| !dir.is_empty()).map(PathBuf::from) else {
        return Ok(None);
    };
    if dir.is_dir() {
        return Ok(Some(dir));
    }
    Err(not_possible(format!("{ASSETS_VARIABLE} names {}, which is not a folder.", dir.display())))
}

/// The Go module that names the versions.
#[derive(Debug)]
struct Module {
    dir: PathBuf,
    /// Such as `1.37.2`.
    kubernetes: String,
    helm: String,
    /// The oldest Go that compiles it.
    go: go::Version,
    hash: u64,
}

impl Module {
    fn read(dir: &Path) -> Result<Self> {
        let read = |name: &str| {
            let path = dir.join(name);
            fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
        };
        let (module, sums) = (read("go.mod")?, read("go.sum")?);
        let version = |of: &str| {
            let value = word_after(&module, of).with_context(|| format!("{}/go.mod names no {of}", dir.display()))?;
            Ok::<_, anyhow::Error>(value.trim_start_matches('v').to_owned())
        };
        // Another release of Rust may hash in another way: then the programs are built once more.
        let mut hasher = DefaultHasher::new();
        (&module, &sums, env::consts::ARCH).hash(&mut hasher);
        Ok(Self {
            dir: dir.to_owned(),
            kubernetes: version("k8s.io/kubernetes")?,
            helm: version("helm.sh/helm/v3")?,
            go: version("go")?.parse()?,
            hash: hasher.finish(),
        })
    }

    /// Versions are not in the sources: the releases, too, are told theirs by the linker.
    fn linker_flags(&self) -> String {
        let Self { kubernetes, helm, .. } = self;
        let mut numbers = kubernetes.split('.');
        let (major, minor) = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        let base = "k8s.io/component-base/version";
        // No symbols: half the size, and a faster link.
        format!(
            "-s -w -X {base}.gitVersion=v{kubernetes} -X {base}.gitMajor={major} -X {base}.gitMinor={minor} \
             -X helm.sh/helm/v3/internal/version.version=v{helm}"
        )
    }
}

/// The second word of the first line whose first word is `first`.
fn word_after<'a>(text: &'a str, first: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let mut words = line.split_whitespace();
        (words.next()? == first).then(|| words.next())?
    })
}

/// Where built programs stay, outside the checkout: a fresh clone need not build them again.
#[derive(Debug)]
struct Cache {
    dir: PathBuf,
    bin: PathBuf,
}

impl Cache {
    fn new(module: &Module) -> Result<Self> {
        let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute());
        let cache = cache.or_else(|| env::home_dir().map(|home| home.join(".cache")));
        let cache = cache.context("this user has no home folder, in which the Kubernetes programs could be kept")?;
        let dir = cache.join("sluice").join(format!("kubernetes-{}-{:016x}", module.kubernetes, module.hash));
        Ok(Self { bin: dir.join("bin"), dir })
    }

    /// Held while building; the kernel takes it back also from a process that was killed.
    fn lock(&self) -> Result<fs::File> {
        fs::create_dir_all(&self.bin).with_context(|| format!("cannot make {}", self.bin.display()))?;
        let path = self.dir.join("lock");
        let lock = fs::File::create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        if lock.try_lock().is_err() {
            println!("  ..  another process builds the Kubernetes programs; waiting for it");
            lock.lock().with_context(|| format!("cannot lock {}", path.display()))?;
        }
        Ok(lock)
    }
}

fn build(module: &Module, cache: &Cache, lacking: &[(&str, &str)]) -> Result<()> {
    let names: Vec<_> = lacking.iter().map(|(name, _)| *name).collect();
    let go = go::prepare(module.go)?;
    println!(
        "  ..  building {} (Kubernetes {}) from source: the lab's control plane is the real one; once, about 8 minutes \
         on two cores, kept in {}",
        names.join(", "),
        module.kubernetes,
        cache.bin.display()
    );
    // Beside, and moved when whole: an interrupted build leaves nothing that looks ready.
    let unfinished = cache.dir.join("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    fs::create_dir_all(&unfinished).with_context(|| format!("cannot make {}", unfinished.display()))?;
    let mut build = go_build(&go, module, &unfinished);
    build.args(lacking.iter().map(|(_, package)| package));
    process::run_slowly("go build", &mut build).map_err(|error| {
        not_possible(format!(
            "The Kubernetes programs could not be built ({error}); see go's lines above. Ready ones are taken from \
             the folder that {ASSETS_VARIABLE} names."
        ))
    })?;
    for (name, package) in lacking {
        let (from, to) = (unfinished.join(built_name(package)), cache.bin.join(name));
        fs::rename(&from, &to).with_context(|| format!("cannot move {} to {}", from.display(), to.display()))?;
    }
    fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))
}

fn go_build(go: &go::Go, module: &Module, into: &Path) -> Command {
    let mut build = go.command();
    build
        .current_dir(&module.dir)
        .args(["build", "-v", "-mod=readonly", "-trimpath", "-gcflags=all=-dwarf=false"])
        .args(["-ldflags", &module.linker_flags(), "-o"])
        .arg(into)
        // No C compiler is needed, and the programs run on any libc.
        .env("CGO_ENABLED", "0");
    build
}

/// The file that `go build` makes of a package: its last name that is not a version.
fn built_name(package: &str) -> &str {
    let is_version = |name: &&str| name.strip_prefix('v').is_some_and(|n| n.parse::<u32>().is_ok());
    package.rsplit('/').find(|name| !is_version(name)).unwrap_or(package)
}

/// Replaces a link in one step: a test that looks at this moment finds the old one or the new one.
fn link(to: &Path, at: &Path) -> Result<()> {
    if fs::read_link(at).is_ok_and(|old| old == to) {
        return Ok(());
    }
    let beside = at.with_extension(format!("new-{}", std::process::id()));
    symlink(to, &beside)
        .and_then(|()| fs::rename(&beside, at))
        .with_context(|| format!("cannot make the link {}", at.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_versions_are_those_of_the_module() {
        let module = Module::read(&workspace::root().join("tests/kubernetes")).unwrap();
        let text = fs::read_to_string(module.dir.join("go.mod")).unwrap();
        assert!(text.contains(&format!("k8s.io/api => k8s.io/api v0{}", &module.kubernetes[1..])), "{module:?}");
        for (_, package) in PROGRAMS {
            assert!(text.contains(&format!("\t{package}\n")), "go.mod has no tool {package}");
        }
        let minor = module.kubernetes.split('.').nth(1).unwrap();
        assert!(module.linker_flags().contains(&format!("gitMinor={minor} ")), "{}", module.linker_flags());
    }

    #[test]
    fn go_names_a_file_after_the_package_without_its_version() {
        assert_eq!(built_name("go.etcd.io/etcd/server/v3"), "server");
        assert_eq!(built_name("helm.sh/helm/v3/cmd/helm"), "helm");
        assert_eq!(built_name("example.org/vim"), "vim");
    }

    #[test]
    fn a_link_is_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("etcd");
        for to in ["/a/etcd", "/b/etcd", "/b/etcd"] {
            link(Path::new(to), &at).unwrap();
            assert_eq!(fs::read_link(&at).unwrap(), Path::new(to));
        }
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
    }
}
