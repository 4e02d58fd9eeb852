//! The search paths of `require`: `package.path` and `package.cpath`, in the order that the interface promises.
//!
//! The application's root, its LuaRocks tree, the operator's `LUA_PATH`/`LUA_CPATH`, `/usr/local`, then
//! Debian's directories. Never touches the file system.

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// The major and minor version whose modules this Lua loads; LuaJIT is a 5.1 in this.
pub(super) const VERSION: &str = if cfg!(feature = "lua55") {
    "5.5"
} else if cfg!(feature = "lua54") {
    "5.4"
} else if cfg!(feature = "lua53") {
    "5.3"
} else if cfg!(feature = "lua52") {
    "5.2"
} else {
    "5.1"
};

/// Debian's multiarch name for the target, the directory under `/usr/lib` where its C modules are.
const TRIPLET: &str = if cfg!(target_arch = "x86_64") {
    "x86_64-linux-gnu"
} else if cfg!(target_arch = "aarch64") {
    "aarch64-linux-gnu"
} else if cfg!(target_arch = "arm") {
    "arm-linux-gnueabihf"
} else if cfg!(target_arch = "x86") {
    "i386-linux-gnu"
} else if cfg!(target_arch = "riscv64") {
    "riscv64-linux-gnu"
} else if cfg!(target_arch = "powerpc64") {
    "powerpc64le-linux-gnu"
} else if cfg!(target_arch = "s390x") {
    "s390x-linux-gnu"
} else {
    "linux-gnu"
};

/// The two search paths, as Lua wants them: templates joined by `;`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Paths {
    pub(super) lua: Vec<u8>,
    pub(super) c: Vec<u8>,
}

impl Paths {
    /// `variable` looks up an environment variable.
    pub(super) fn new(root: &Path, variable: impl Fn(&str) -> Option<Vec<u8>>) -> Self {
        // The versioned variable displaces the plain one, as in the stand-alone interpreter.
        let given = |name: &str| {
            variable(&format!("{name}_{}", VERSION.replace('.', "_"))).or_else(|| variable(name))
        };
        let root = |rest: &str| {
            let mut template = root.as_os_str().as_bytes().to_vec();
            template.extend_from_slice(rest.as_bytes());
            template
        };
        Self {
            lua: join(
                vec![
                    root("/?.lua"),
                    root("/?/init.lua"),
                    root(&format!("/lua_modules/share/lua/{VERSION}/?.lua")),
                    root(&format!("/lua_modules/share/lua/{VERSION}/?/init.lua")),
                ],
                given("LUA_PATH"),
                &[
                    format!("/usr/local/share/lua/{VERSION}/?.lua"),
                    format!("/usr/local/share/lua/{VERSION}/?/init.lua"),
                    format!("/usr/local/lib/lua/{VERSION}/?.lua"),
                    format!("/usr/local/lib/lua/{VERSION}/?/init.lua"),
                    format!("/usr/share/lua/{VERSION}/?.lua"),
                    format!("/usr/share/lua/{VERSION}/?/init.lua"),
                ],
            ),
            c: join(
                vec![root("/?.so"), root(&format!("/lua_modules/lib/lua/{VERSION}/?.so"))],
                given("LUA_CPATH"),
                &[
                    format!("/usr/local/lib/lua/{VERSION}/?.so"),
                    format!("/usr/lib/{TRIPLET}/lua/{VERSION}/?.so"),
                    format!("/usr/lib/lua/{VERSION}/?.so"),
                ],
            ),
        }
    }
}

/// Joins templates. `;;` in the operator's variable marks the place of the defaults; without it they come last, so that Debian's
/// packages are found with any variable.
fn join(mut templates: Vec<Vec<u8>>, given: Option<Vec<u8>>, defaults: &[String]) -> Vec<u8> {
    let defaults = || defaults.iter().map(|template| template.as_bytes().to_vec());
    let mut placed = false;
    let given = given.unwrap_or_default();
    let parts: Vec<&[u8]> = given.split(|byte| *byte == b';').collect();
    for (position, part) in parts.iter().enumerate() {
        if !part.is_empty() {
            templates.push(part.to_vec());
        } else if !placed && parts.len() > 1 && is_double(&parts, position) {
            templates.extend(defaults());
            placed = true;
        }
    }
    if !placed {
        templates.extend(defaults());
    }
    templates.join(&b';')
}

/// Whether the empty part at `position` comes from `;;` and not from a stray `;` at either end.
fn is_double(parts: &[&[u8]], position: usize) -> bool {
    let inside = position > 0 && position + 1 < parts.len();
    let beside_empty = parts.get(position + 1).is_some_and(|part| part.is_empty());
    inside || beside_empty
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lua_path(variables: &[(&str, &str)]) -> String {
        let paths = Paths::new(Path::new("/srv/shop"), |name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| value.as_bytes().to_vec())
        });
        String::from_utf8(paths.lua).unwrap().replace(VERSION, "V")
    }

    const FRONT: &str = "/srv/shop/?.lua;/srv/shop/?/init.lua;/srv/shop/lua_modules/share/lua/V/?.lua;/srv/shop/lua_modules/share/lua/V/?/init.lua";
    const BACK: &str = "/usr/local/share/lua/V/?.lua;/usr/local/share/lua/V/?/init.lua;/usr/local/lib/lua/V/?.lua;\
                        /usr/local/lib/lua/V/?/init.lua;/usr/share/lua/V/?.lua;/usr/share/lua/V/?/init.lua";

    #[test]
    fn root_and_rocks_come_before_the_variable_and_the_system_after() {
        let versioned = format!("LUA_PATH_{}", VERSION.replace('.', "_"));
        for (variables, middle) in [
            (vec![], ""),
            (vec![("LUA_PATH", "/a/?.lua")], ";/a/?.lua"),
            (vec![("LUA_PATH", "/a/?.lua;")], ";/a/?.lua"),
            (vec![("LUA_PATH", "/a/?.lua;;")], ";/a/?.lua"),
            (vec![("LUA_PATH", "/a/?.lua"), (&versioned, "/b/?.lua")], ";/b/?.lua"),
        ] {
            assert_eq!(lua_path(&variables), format!("{FRONT}{middle};{BACK}"), "{variables:?}");
        }
    }

    #[test]
    fn a_double_semicolon_places_the_defaults() {
        assert_eq!(lua_path(&[("LUA_PATH", ";;/a/?.lua")]), format!("{FRONT};{BACK};/a/?.lua"));
        assert_eq!(lua_path(&[("LUA_PATH", "/a/?;;/b/?")]), format!("{FRONT};/a/?;{BACK};/b/?"));
        assert_eq!(lua_path(&[("LUA_PATH", ";;")]), format!("{FRONT};{BACK}"));
    }

    #[test]
    fn c_modules_come_from_the_root_the_rocks_and_debians_multiarch_directory() {
        let paths = Paths::new(Path::new("/srv/shop"), |_| None);
        let c = String::from_utf8(paths.c).unwrap();
        assert_eq!(
            c,
            format!(
                "/srv/shop/?.so;/srv/shop/lua_modules/lib/lua/{VERSION}/?.so;/usr/local/lib/lua/{VERSION}/?.so;\
                 /usr/lib/{TRIPLET}/lua/{VERSION}/?.so;/usr/lib/lua/{VERSION}/?.so"
            )
        );
    }
}
