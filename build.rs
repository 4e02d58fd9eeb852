//! Exports the symbols of the vendored Lua from every linked binary, so that C modules built against
//! a shared liblua (Debian's `lua-cjson`, LuaRocks trees) find them when they are loaded.

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rustc-link-arg=-rdynamic");
}
