//! What one request leaves to the next, and what runs between two instructions of a request: nothing of the server's.

use super::*;

#[test]
fn nothing_that_a_request_is_handed_is_shared_with_the_next() {
    let (mut state, recorder) = started("shared.lua");
    for request in 1..=3 {
        assert_eq!(serve(&mut state, "POST", Body::Memory(b"posted".to_vec())), Outcome::Complete);
        let record = recorder.take();
        let log: Vec<_> = record.log.iter().map(|(_, line)| line.as_str()).collect();
        assert_eq!(log, ["line"], "request {request}");
        let shared = String::from_utf8(record.chunks.concat()).unwrap();
        assert_eq!(shared, "", "request {request} finds what another has written");
    }
}

#[test]
fn a_finaliser_may_read_the_body_while_the_body_is_read() {
    let (mut state, recorder) = started("finalisers.lua");
    let text = ["line\n"; 10_000].concat();
    for body in [Body::Memory(text.clone().into_bytes()), spooled(text.as_bytes())] {
        assert_eq!(serve(&mut state, "POST", body), Outcome::Complete);
        let record = recorder.take();
        assert_eq!(record.log, []);
        assert_eq!(String::from_utf8(record.chunks.concat()).unwrap(), "fine");
    }
}

/// The metatable of strings is the application's: its methods, and the `__tostring` that "%s" asks for from Lua 5.3 on.
#[test]
fn nibirus_code_asks_no_string_for_a_method() {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/nibiru");
    let mut guilty = Vec::new();
    let (public, core) = (fs::read_dir(&sources).unwrap(), fs::read_dir(sources.join("core")).unwrap());
    for source in public.chain(core) {
        let path = source.unwrap().path();
        if path.is_dir() {
            continue;
        }
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        // Is there in Luas only where "%s" takes a string as it is.
        let is_old = name == "utf8.lua";
        for line in fs::read_to_string(&path).unwrap().lines() {
            let code = line.split("--").next().unwrap_or_default();
            // Of an object of the application's, which has such methods.
            let code = code.replace("file:read(count)", "").replace("file:close()", "");
            let method = code.split(':').skip(1).any(|rest| {
                let name =
                    rest.trim_start_matches(|letter: char| letter.is_ascii_lowercase() || letter == '_');
                name.len() < rest.len() && name.starts_with('(')
            });
            if (method && !code.trim_start().starts_with("function "))
                || (!is_old && code.contains("format(") && code.contains("%s"))
            {
                guilty.push(format!("{name}: {line}"));
            }
        }
    }
    assert_eq!(guilty, Vec::<String>::new());
}
