//! The head of a request: its variables, checked.
//!
//! Called by the gateway once PARAMS is complete. Never looks at a body. A wrong variable is refused, not repaired. [`repeated`] settles
//! a repeated variable. A variable that the proxy left out because its value is empty is added.

use super::super::syntax::is_token;
use super::super::variables::Variables;
use super::bad_request::BadRequest;
use super::content_length::ContentLength;
use super::path_info;
use super::repeated::{self, SeenNames};

/// The checked head of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Head {
    /// The variables, each name once, without `HTTP_PROXY`.
    pub variables: Variables,
    /// The length of the body.
    pub content_length: ContentLength,
    /// The method is HEAD: the response has no body, whatever its head says.
    pub head_request: bool,
    /// Names without `HTTP_` that came more than once: the configuration of the proxy has them twice.
    pub repeated: Vec<Vec<u8>>,
    /// PATH_INFO lacks the path that it should hold, as with nginx's own `fastcgi_params`.
    pub lacks_path_info: bool,
}

impl Head {
    /// Checks the variables of a request in the role Responder, and takes them over. Refused variables stay, so that the log can
    /// name the request.
    ///
    /// # Errors
    /// When the request is ambiguous or lacks a variable that RFC 3875 requires: answer with 400.
    pub fn parse(variables: &mut Variables) -> Result<Self, BadRequest> {
        match Self::parse_any(variables, true) {
            // A lack is reported before every other error.
            Err(_) if !variables.contains(REQUEST_METHOD) => Err(BadRequest::MissingMethod),
            parsed => parsed,
        }
    }

    /// Checks the variables of a request in the role Authorizer: there is no body, so a CONTENT_LENGTH
    /// that came all the same is dropped (FastCGI 1.0 §6.3), and REQUEST_METHOD may be missing.
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_authorizer(variables: &mut Variables) -> Result<Self, BadRequest> {
        let mut head = Self::parse_any(variables, false)?;
        if head.variables.contains(CONTENT_LENGTH) {
            let kept = head.variables.iter().filter(|(name, _)| *name != CONTENT_LENGTH);
            head.variables = kept.fold(Variables::new(), pushed);
        }
        head.content_length = ContentLength::Known(0);
        Ok(head)
    }

    /// Checks the variables of a request in the role Filter. Gives the length of its data too: FCGI_DATA_LENGTH, in the form of
    /// CONTENT_LENGTH (FastCGI 1.0 §6.4).
    ///
    /// # Errors
    /// As [`parse`](Self::parse).
    pub fn parse_filter(variables: &mut Variables) -> Result<(Self, ContentLength), BadRequest> {
        let data_length = match variables.get(FCGI_DATA_LENGTH) {
            Some(value) => ContentLength::parse(FCGI_DATA_LENGTH, value)?,
            None => ContentLength::UntilEnd,
        };
        Ok((Self::parse(variables)?, data_length))
    }

    /// Empties the body, which the proxy keeps to itself. The application gets its promised length, in bytes, as
    /// `nibiru.promised_length`.
    pub fn withhold_body(&mut self, promised: u64) {
        let mut variables = Variables::new();
        for (name, value) in &self.variables {
            variables.push(name, if name == CONTENT_LENGTH { b"0" } else { value });
        }
        variables.push(PROMISED_LENGTH, promised.to_string().as_bytes());
        (self.variables, self.content_length) = (variables, ContentLength::Known(0));
    }

    /// Checks the variables. For `http`, a request with a method, adds those of [`EMPTY_WHERE_ABSENT`].
    fn parse_any(variables: &mut Variables, http: bool) -> Result<Self, BadRequest> {
        let (known, may_need_settling) = Known::find_with_names(variables);
        let settled = if may_need_settling { repeated::settle(variables)? } else { None };
        let known = settled.as_ref().map_or(known, |settled| Known::find(&settled.variables));
        let content_length = known.check(http)?;
        let head_request = known.method == Some(&b"HEAD"[..]);
        let script_name = known.script_name.unwrap_or_default();
        let document_uri = known.document_uri.unwrap_or_default();
        let lacks_path_info = path_info::is_lacking(script_name, known.path_info, document_uri);
        let absent = [known.script_name, known.path_info, known.query].map(|value| http && value.is_none());
        let taken = std::mem::take(variables);
        let (mut variables, repeated) =
            settled.map_or((taken, Vec::new()), |settled| (settled.variables, settled.repeated));
        for (name, _) in EMPTY_WHERE_ABSENT.into_iter().zip(absent).filter(|(_, absent)| *absent) {
            variables.push(name, b"");
        }
        Ok(Self { variables, content_length, head_request, repeated, lacks_path_info })
    }
}

/// The variables that a head looks at: the last of each name.
#[derive(Clone, Copy, Debug, Default)]
struct Known<'a> {
    content_length: Option<&'a [u8]>,
    method: Option<&'a [u8]>,
    script_name: Option<&'a [u8]>,
    path_info: Option<&'a [u8]>,
    query: Option<&'a [u8]>,
    document_uri: Option<&'a [u8]>,
    /// Whether the method came before the content length.
    method_first: bool,
}

impl<'a> Known<'a> {
    fn find(variables: &'a Variables) -> Self {
        let mut known = Self::default();
        variables.iter().for_each(|(name, value)| known.take(name, value));
        known
    }

    /// [`find`](Self::find), and whether the variables may need [`repeated::settle`], in one pass.
    fn find_with_names(variables: &'a Variables) -> (Self, bool) {
        let (mut known, mut names) = (Self::default(), SeenNames::new());
        for (name, value) in variables {
            names.see(name);
            known.take(name, value);
        }
        (known, names.may_need_settling())
    }

    fn take(&mut self, name: &[u8], value: &'a [u8]) {
        match name {
            CONTENT_LENGTH => self.content_length = Some(value),
            REQUEST_METHOD => {
                (self.method, self.method_first) = (Some(value), self.content_length.is_none());
            }
            SCRIPT_NAME => self.script_name = Some(value),
            PATH_INFO => self.path_info = Some(value),
            QUERY_STRING => self.query = Some(value),
            DOCUMENT_URI => self.document_uri = Some(value),
            _ => {}
        }
    }

    /// Checks the method and the content length, in the order in which they came. Returns the length.
    fn check(&self, needs_method: bool) -> Result<ContentLength, BadRequest> {
        let method = match self.method {
            Some(method) if !is_token(method) => Err(BadRequest::Method { value: method.to_vec() }),
            None if needs_method => Err(BadRequest::MissingMethod),
            _ => Ok(()),
        };
        let length = match self.content_length {
            Some(value) => ContentLength::parse(CONTENT_LENGTH, value),
            None => Ok(ContentLength::UntilEnd),
        };
        if self.method_first { method.and(length) } else { length.and_then(|length| method.map(|()| length)) }
    }
}

const CONTENT_LENGTH: &[u8] = b"CONTENT_LENGTH";
/// The CONTENT_LENGTH of a body that the proxy keeps, for the application.
const PROMISED_LENGTH: &[u8] = b"nibiru.promised_length";
const FCGI_DATA_LENGTH: &[u8] = b"FCGI_DATA_LENGTH";
const REQUEST_METHOD: &[u8] = b"REQUEST_METHOD";
const SCRIPT_NAME: &[u8] = b"SCRIPT_NAME";
const PATH_INFO: &[u8] = b"PATH_INFO";
const QUERY_STRING: &[u8] = b"QUERY_STRING";
const DOCUMENT_URI: &[u8] = b"DOCUMENT_URI";

/// Variables that an application joins to paths without a check. RFC 3875 wants the query string defined in any case
/// (§4.1.7); HAProxy sends no empty variable.
const EMPTY_WHERE_ABSENT: [&[u8]; 3] = [SCRIPT_NAME, PATH_INFO, QUERY_STRING];

fn pushed(mut variables: Variables, (name, value): (&[u8], &[u8])) -> Variables {
    variables.push(name, value);
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).fold(Variables::new(), pushed)
    }

    /// A GET request with these variables too, before anything is added.
    fn parse(pairs: &[(&str, &str)]) -> Result<Head, BadRequest> {
        Head::parse_any(&mut variables(&[&[("REQUEST_METHOD", "GET")], pairs].concat()), false)
    }

    fn message(pairs: &[(&str, &str)]) -> String {
        let error = parse(pairs).unwrap_err();
        assert_eq!(error.status(), 400);
        error.to_string()
    }

    #[test]
    fn what_haproxy_leaves_out_since_it_is_empty_is_there() {
        let head = Head::parse(&mut variables(&[("REQUEST_METHOD", "GET"), ("PATH_INFO", "/a")])).unwrap();
        let expected =
            [("REQUEST_METHOD", "GET"), ("PATH_INFO", "/a"), ("SCRIPT_NAME", ""), ("QUERY_STRING", "")];
        assert_eq!(head.variables, variables(&expected));
    }

    #[test]
    fn c19_content_length_is_known_or_until_the_end() {
        let length = |value| parse(&[("CONTENT_LENGTH", value)]).map(|head| head.content_length);
        assert_eq!(parse(&[]).unwrap().content_length, ContentLength::UntilEnd);
        assert_eq!(length(""), Ok(ContentLength::UntilEnd));
        assert_eq!(length("-1"), Ok(ContentLength::UntilEnd));
        assert_eq!(length("0"), Ok(ContentLength::Known(0)));
        assert_eq!(length("0000000000000000000000000042"), Ok(ContentLength::Known(42)));
        assert_eq!(length("18446744073709551615"), Ok(ContentLength::Known(u64::MAX)));
    }

    #[test]
    fn c19_any_other_content_length_is_refused() {
        for value in ["+5", "1,1", " 5", "5 ", "18446744073709551616", "-2", "-", "0x10", "5.0", "٣", "1_000"]
        {
            let shown = value.as_bytes().escape_ascii();
            let expected = format!("CONTENT_LENGTH is not a length: \"{shown}\"");
            assert_eq!(message(&[("CONTENT_LENGTH", value)]), expected);
        }
    }

    #[test]
    fn the_last_of_a_name_wins_in_its_place() {
        let head = parse(&[("A", "1"), ("HTTP_X", "1"), ("B", "2"), ("A", "3"), ("A", "4"), ("HTTP_X", "5")]);
        let expected = variables(&[("REQUEST_METHOD", "GET"), ("B", "2"), ("A", "4"), ("HTTP_X", "5")]);
        assert_eq!(head.unwrap().variables, expected);
    }

    #[test]
    fn what_the_proxy_sends_twice_has_its_last_value_and_is_told() {
        let names = ["REQUEST_METHOD", "SCRIPT_NAME", "SCRIPT_FILENAME", "PATH_INFO", "HTTPS", "REMOTE_USER"];
        for name in names {
            let head = parse(&[(name, "A"), ("X", ""), (name, "B")]).unwrap();
            assert_eq!(head.variables.get(name.as_bytes()), Some(&b"B"[..]), "{name}");
            assert_eq!(head.variables.iter().filter(|(n, _)| *n == name.as_bytes()).count(), 1);
            assert_eq!(head.repeated, [name.as_bytes()]);
        }
        let head = parse(&[("HTTP_X", "A"), ("HTTP_X", "B"), ("HTTP_PROXY", "")]).unwrap();
        assert!(head.repeated.is_empty(), "a client could fill the log");
    }

    #[test]
    fn lengths_and_headers_that_contradict_each_other_are_refused() {
        for name in ["CONTENT_LENGTH", "FCGI_DATA_LENGTH", "HTTP_AUTHORIZATION", "HTTP_HOST"] {
            let expected = format!("{name} came twice, with different values");
            assert_eq!(message(&[(name, "1"), ("X", ""), (name, "2")]), expected);
            assert!(parse(&[(name, "1"), (name, "1")]).is_ok());
        }
        let head = parse(&[("CONTENT_LENGTH", "5"), ("CONTENT_LENGTH", "")]).unwrap();
        assert_eq!(head.content_length, ContentLength::UntilEnd);
        let head = parse(&[("CONTENT_LENGTH", "x"), ("CONTENT_LENGTH", "x"), ("REQUEST_METHOD", "HEAD")]);
        assert_eq!(head.unwrap_err().to_string(), "CONTENT_LENGTH is not a length: \"x\"");
    }

    #[test]
    fn lists_are_joined_at_the_place_of_the_last() {
        let head = parse(&[("HTTP_COOKIE", "a"), ("HTTP_VIA", "x"), ("HTTP_COOKIE", "b"), ("HTTP_VIA", "y")]);
        let expected = [("REQUEST_METHOD", "GET"), ("HTTP_COOKIE", "a; b"), ("HTTP_VIA", "x, y")];
        assert_eq!(head.unwrap().variables, variables(&expected));
    }

    #[test]
    fn names_of_headers_that_cannot_be_told_apart_are_refused() {
        for (name, other) in [("HTTP_X-Foo", "HTTP_X_FOO"), ("http_x", "HTTP_X"), ("HTTP_A-B", "HTTP_a_b")] {
            for (first, second) in [(name, other), (other, name)] {
                let expected = format!("{first} and {second} cannot be told apart");
                assert_eq!(message(&[(first, "1"), ("HTTP_Y", "1"), (second, "1")]), expected);
                assert_eq!(message(&[(first, "1"), (second, "1"), (first, "1")]), expected);
            }
        }
        assert!(parse(&[("HTTP_X-FOO", "1"), ("HTTP_X_FOO_", "1"), ("HTTP_XFOO", "1")]).is_ok());
    }

    #[test]
    fn other_names_are_what_they_are() {
        let pairs = [
            ("no_proxy", "a"),
            ("NO_PROXY", "b"),
            ("content_length", "x"),
            ("script_name", "/"),
            ("no_proxy", "c"),
            ("A-B", ""),
            ("A_B", ""),
        ];
        let head = Head::parse(&mut variables(&[&[("REQUEST_METHOD", "GET")], &pairs[..]].concat())).unwrap();
        assert_eq!(head.content_length, ContentLength::UntilEnd);
        assert_eq!(head.repeated, [b"no_proxy"]);
        for (name, value) in [("no_proxy", "c"), ("NO_PROXY", "b"), ("script_name", "/"), ("SCRIPT_NAME", "")]
        {
            assert_eq!(head.variables.get(name.as_bytes()), Some(value.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_path_info_that_is_lacking_is_told() {
        assert!(parse(&[("SCRIPT_NAME", "/a"), ("DOCUMENT_URI", "/a")]).unwrap().lacks_path_info);
        let whole = [("SCRIPT_NAME", ""), ("PATH_INFO", "/a"), ("DOCUMENT_URI", "/a")];
        assert!(!parse(&whole).unwrap().lacks_path_info);
    }

    #[test]
    fn names_that_differ_only_before_their_ends_are_told_apart() {
        let long = "X".repeat(256);
        let names = [format!("A{long}"), format!("B{long}"), "X".into(), long.clone(), format!("{long}X")];
        let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(parse(&pairs).unwrap().variables.iter().count(), 6);
    }

    #[test]
    fn repeats_are_found_among_names_that_end_alike() {
        let head = parse(&[("A_THE_END", "1"), ("B_THE_END", "2"), ("A_THE_END", "3")]).unwrap();
        assert_eq!(
            head.variables,
            variables(&[("REQUEST_METHOD", "GET"), ("B_THE_END", "2"), ("A_THE_END", "3")])
        );
    }

    #[test]
    fn httpoxy_is_dropped_in_every_spelling() {
        for name in ["HTTP_PROXY", "http_proxy", "HTTP-Proxy"] {
            let head =
                parse(&[(name, "evil"), ("HTTP_PROXY", "evil"), ("HTTP_PROXY_AUTHORIZATION", "x")]).unwrap();
            let expected = variables(&[("REQUEST_METHOD", "GET"), ("HTTP_PROXY_AUTHORIZATION", "x")]);
            assert_eq!(head.variables, expected);
        }
    }

    #[test]
    fn the_method_is_required_and_a_token() {
        for lacking in [("A", ""), ("CONTENT_LENGTH", "x"), ("", "")] {
            let mut lacking = variables(&[lacking]);
            assert_eq!(Head::parse(&mut lacking), Err(BadRequest::MissingMethod));
            assert_eq!(lacking.iter().count(), 1, "the log names the request");
        }
        for method in ["", "GE T", "GET\r\n", "G\u{e9}T", "GET/"] {
            let error = Head::parse(&mut variables(&[("REQUEST_METHOD", method)])).unwrap_err();
            assert_eq!(error, BadRequest::Method { value: method.into() });
        }
        for (method, is_head) in [("GET", false), ("HEAD", true), ("head", false), ("M-SEARCH", false)] {
            let head = Head::parse(&mut variables(&[("REQUEST_METHOD", method)])).unwrap();
            assert_eq!(head.head_request, is_head, "{method}");
        }
    }

    #[test]
    fn of_two_wrong_variables_the_first_is_told() {
        let (method, length) = (("REQUEST_METHOD", "GE T"), ("CONTENT_LENGTH", "x"));
        let errors = [method, length].map(|first| {
            let second = if first == method { length } else { method };
            Head::parse(&mut variables(&[first, second])).unwrap_err()
        });
        assert!(matches!(&errors, [BadRequest::Method { .. }, BadRequest::Length { .. }]), "{errors:?}");
    }

    #[test]
    fn a_variable_without_a_name_is_refused() {
        assert_eq!(message(&[("", "x")]), "a variable has no name");
    }

    #[test]
    fn c20_an_authorizer_has_no_body_and_needs_no_method() {
        let pairs = [("REMOTE_USER", "x"), ("CONTENT_LENGTH", "5")];
        let head = Head::parse_authorizer(&mut variables(&pairs)).unwrap();
        assert_eq!(head.content_length, ContentLength::Known(0));
        assert_eq!(head.variables, variables(&pairs[..1]));
        let error = Head::parse_authorizer(&mut variables(&[("REQUEST_METHOD", " ")])).unwrap_err();
        assert_eq!(error, BadRequest::Method { value: b" ".to_vec() });
    }

    #[test]
    fn c21_a_filters_data_have_a_length_as_its_body_has() {
        let data_length = |pairs: &[(&str, &str)]| {
            let mut variables =
                variables(&[&[("REQUEST_METHOD", "GET"), ("CONTENT_LENGTH", "5")], pairs].concat());
            let parsed = Head::parse_filter(&mut variables);
            assert_eq!(parsed.is_err(), variables.get(b"REQUEST_METHOD").is_some(), "{pairs:?}");
            parsed.map(|(head, data_length)| {
                assert_eq!(head.content_length, ContentLength::Known(5));
                data_length
            })
        };
        assert_eq!(data_length(&[]), Ok(ContentLength::UntilEnd));
        assert_eq!(data_length(&[("FCGI_DATA_LENGTH", "")]), Ok(ContentLength::UntilEnd));
        assert_eq!(data_length(&[("FCGI_DATA_LENGTH", "42")]), Ok(ContentLength::Known(42)));
        let error = data_length(&[("FCGI_DATA_LENGTH", "+5")]).unwrap_err();
        assert_eq!(error.to_string(), "FCGI_DATA_LENGTH is not a length: \"+5\"");
        let twice = data_length(&[("FCGI_DATA_LENGTH", "1"), ("FCGI_DATA_LENGTH", "2")]).unwrap_err();
        assert_eq!(twice.to_string(), "FCGI_DATA_LENGTH came twice, with different values");
    }

    #[test]
    fn messages_are_short_and_printable() {
        let value = format!("\r\n{}", "9".repeat(1000));
        assert!(message(&[("CONTENT_LENGTH", &value)]).len() < 120);
        assert!(message(&[("CONTENT_LENGTH", &value)]).contains("\"\\r\\n999"));
    }

    #[test]
    fn many_names_of_one_key_stay_cheap() {
        let mut many = variables(&[("REQUEST_METHOD", "GET")]);
        for n in 0..100_000 {
            many.push(format!("{n:08}_THE_END").as_bytes(), b"");
        }
        // A quadratic scan would take minutes.
        assert_eq!(Head::parse(&mut many).unwrap().variables.iter().count(), 100_004);
    }
}
