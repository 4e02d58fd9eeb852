//! Request bodies of any size: they arrive whole through every proxy and are spooled in `--spool-dir`, and a hanging or
//! full disk fails only the requests that need it.

use std::fs;
use std::thread;

use crate::support::disks::Disk;
use crate::support::wire::{self, Connection, PARAMS, RESPONDER, STDIN, begin, record};
use crate::support::{App, Kind, Proxy, Server, wait_for};

/// An application that answers with the length and a checksum of the body read in pieces, its length read by lines, its
/// size by a seek, and its first 4 bytes.
const SUMS: &str = r#"
local function sum(a, b, piece)
  for at = 1, #piece do
    a = (a + piece:byte(at)) % 65521
    b = (b + a) % 65521
  end
  return a, b
end

return { application = function(environ)
  local input = environ["wsgi.input"]
  local a, b, length = 1, 0, 0
  for piece in function() return input:read(10000) end do
    a, b, length = (function(x, y) return x, y, length + #piece end)(sum(a, b, piece))
  end
  -- As parsers of multipart bodies do.
  input:seek("set", 0)
  local again = 0
  for line in input:lines("L") do
    again = again + #line
  end
  local first = input:seek("set", 0) == 0 and input:read(4)
  return 200, {}, { string.format("%d %d %d %d %s", length, b * 65536 + a, again, input:seek("end"), first or "") }
end }
"#;

/// The expected response of [`SUMS`]. The checksum is Adler-32, which is short in Lua.
fn sums(body: &[u8]) -> String {
    let (mut a, mut b) = (1_u32, 0_u32);
    for byte in body {
        a = (a + u32::from(*byte)) % 65521;
        b = (b + a) % 65521;
    }
    let first = String::from_utf8_lossy(&body[..body.len().min(4)]);
    format!("{0} {1} {0} {0} {first}", body.len(), u64::from(b) * 65536 + u64::from(a))
}

/// A body with bytes of every value, and so lines of all lengths.
fn body(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    b"----".iter().copied().chain(std::iter::repeat_with(&mut next)).take(length).collect()
}

#[test]
fn a_body_of_any_size_is_read_the_same_from_memory_and_from_a_file() {
    let app = App::new(SUMS);
    let server = Server::builder().application(app.root(), "app").start();
    let mut connection = Connection::open(&server.socket());
    // Lengths around the limit in memory, the length of one write, and their sum.
    for length in [0, 1, 65_535, 65_536, 65_537, 131_072, 131_073, 196_609, 262_144, 3_000_001] {
        let body = body(length);
        connection.send(&wire::post(1, "/", &body, true));
        let response = connection.response(1).unwrap();
        assert_eq!(String::from_utf8_lossy(response.body()), sums(&body), "{length} bytes");
    }
}

#[test]
fn a_body_with_or_without_a_length_passes_each_proxy_whole() {
    let app = App::new(SUMS);
    let server = Server::builder().application(app.root(), "app").start();
    let body = body(5_000_000);
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &body).unwrap();
    let data = format!("@{}", file.path().display());
    let streaming =
        |site: String| site.replace("fastcgi_request_buffering on;", "fastcgi_request_buffering off;");
    let proxies = [
        Proxy::with_edits(Kind::Nginx, &server, streaming),
        Proxy::start(Kind::Nginx, &server),
        Proxy::start(Kind::OldCaddy, &server),
        Proxy::start(Kind::NewCaddy, &server),
    ];
    for proxy in &proxies {
        let reply = proxy.curl(["--data-binary", &data], "/");
        assert_eq!((reply.status, reply.text()), (200, sums(&body)), "{:?}", proxy.kind);
    }
    // Caddy is left out: it answers 411 to a body without a length that exceeds its buffer.
    for proxy in &proxies[..2] {
        let reply = proxy.curl(["--data-binary", &data, "--header", "Transfer-Encoding: chunked"], "/");
        assert_eq!((reply.status, reply.text()), (200, sums(&body)), "{:?}", proxy.kind);
    }
}

#[test]
fn a_body_beyond_max_body_is_413_at_the_first_byte_too_many() {
    let app = App::new(SUMS);
    let server = Server::builder().application(app.root(), "app").arguments(["--max-body", "1M"]).start();
    let mut connection = Connection::open(&server.socket());
    // CONTENT_LENGTH exceeds the limit, so the 413 comes before any byte of the body.
    let mut params = wire::get_params("/");
    params.extend(wire::pair(b"CONTENT_LENGTH", b"1048577"));
    connection.send(&begin(1, RESPONDER, true));
    connection.send(&wire::stream(PARAMS, 1, &params));
    assert_eq!(connection.response(1).unwrap().status(), 413);
    // Without CONTENT_LENGTH, the 413 comes at the first byte beyond the limit.
    connection.send(&begin(2, RESPONDER, true));
    connection.send(&wire::stream(PARAMS, 2, &wire::get_params("/")));
    for _ in 0..16 {
        connection.send(&record(STDIN, 2, &[b'x'; 65_535]));
    }
    connection.send(&record(STDIN, 2, &[b'x'; 16]));
    connection.settle();
    connection.send(&record(STDIN, 2, b"x"));
    assert_eq!(connection.response(2).unwrap().status(), 413);
}

#[test]
fn bodies_beyond_max_spool_together_are_503() {
    let app = App::new(SUMS);
    let server = Server::builder().application(app.root(), "app").arguments(["--max-spool", "1M"]).start();
    // The length of the last record with content and of the end of STDIN, which are held back to keep the request
    // incomplete.
    let last = 8 + 600_000 % usize::from(u16::MAX) + 8;
    let begun = |id| {
        let mut connection = Connection::open(&server.socket());
        let whole = wire::post(id, "/", &body(600_000), true);
        let (first, rest) = whole.split_at(whole.len() - last);
        connection.send(first);
        (connection, rest.to_vec())
    };
    let (mut first, rest) = begun(1);
    first.settle();
    let (mut second, _) = begun(2);
    assert_eq!(second.response(2).unwrap().status(), 503);
    server.logged(&["status=503", "--max-spool"]);
    // A write of the second body may still be under way, and counts until it is done.
    wait_for("only the first body has a spool file", || {
        (server.status()["spool"]["files"] == 1).then_some(())
    });
    first.send(&rest);
    assert_eq!(String::from_utf8_lossy(first.response(1).unwrap().body()), sums(&body(600_000)));
    // The spool has room again.
    let (mut third, rest) = begun(3);
    third.settle();
    third.send(&rest);
    assert_eq!(third.response(3).unwrap().status(), 200);
}

#[test]
fn a_hanging_disk_stalls_only_the_uploads_that_are_spooled_there() {
    let Some(disk) = Disk::new() else { return };
    let app = App::new(SUMS);
    let directory = disk.directory().display().to_string();
    // The long --queue-timeout allows for twelve checksums in Lua on a busy machine.
    let arguments = ["--spool-dir", &directory, "--queue-timeout", "10m"];
    let server = Server::builder().application(app.root(), "app").arguments(arguments).start();
    let socket = server.socket();
    let body = body(2_000_000);
    let frozen = disk.freeze();
    let uploads: Vec<_> = (0..12)
        .map(|_| {
            let (socket, whole) = (socket.clone(), wire::post(1, "/", &body, false));
            thread::spawn(move || {
                let mut connection = Connection::open(&socket);
                connection.send(&whole);
                String::from_utf8_lossy(connection.response(1).unwrap().body()).into_owned()
            })
        })
        .collect();
    wait_for("threads of the gateway hang in the disk", || {
        let stuck = fs::read_dir(format!("/proc/{}/task", server.pid())).unwrap().filter(|task| {
            let stat = fs::read_to_string(task.as_ref().unwrap().path().join("stat")).unwrap_or_default();
            stat.rsplit(')').next().is_some_and(|rest| rest.starts_with(" D"))
        });
        (stuck.count() >= 4).then_some(())
    });
    // Requests that need no disk are answered, also with a body.
    let mut connection = Connection::open(&socket);
    for _ in 0..100 {
        assert_eq!(connection.get("/").status(), 200);
        connection.send(&wire::post(1, "/", &body[..60_000], true));
        let response = connection.response(1).unwrap();
        assert_eq!(String::from_utf8_lossy(response.body()), sums(&body[..60_000]));
    }
    assert!(uploads.iter().all(|upload| !upload.is_finished()), "no upload can finish on a frozen disk");
    drop(frozen);
    for upload in uploads {
        assert_eq!(upload.join().unwrap(), sums(&body));
    }
}

#[test]
fn an_upload_that_is_not_spooled_within_body_timeout_is_503() {
    let Some(disk) = Disk::new() else { return };
    let app = App::new(SUMS);
    let directory = disk.directory().display().to_string();
    let arguments = ["--spool-dir", &directory, "--body-timeout", "300ms"];
    let server = Server::builder().application(app.root(), "app").arguments(arguments).start();
    let frozen = disk.freeze();
    let mut connection = Connection::open(&server.socket());
    let whole = wire::post(1, "/", &body(100_000), true);
    connection.send(&whole);
    assert_eq!(connection.response(1).unwrap().status(), 503);
    server.logged(&["status=503", "could not be spooled in time (--body-timeout)"]);
    assert_eq!(connection.get("/").status(), 200, "the connection stays open");
    drop(frozen);
    connection.send(&whole);
    assert_eq!(connection.response(1).unwrap().status(), 200);
}
