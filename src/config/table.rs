//! The grammar of the table of settings, `settings!`, and the row that each setting leaves in
//! [`SETTINGS`](super::SETTINGS). The rows themselves stand in `options.rs`.
//!
//! A row has the help text, the field, its type and its columns:
//!
//! | column | says |
//! | --- | --- |
//! | `value` | how the help calls the value of the flag; `argument` for a setting that is no flag |
//! | `default` | the fixed default, written as in the file; a test reads every one |
//! | `derived` | in place of `default`: the description of a default that [`Config::new`](super::Config::new) derives |
//! | `changes` | when a new value takes effect: [`Change::Reload`] or [`Change::Restart`] |
//! | `short_help` | `false` leaves the flag out of `-h` |
//!
//! Whether a setting can be off follows from its type.

/// A row of the table of settings.
#[derive(Debug)]
pub struct Setting {
    /// The key in the file, which is also the flag's name: `max-body`.
    pub key: &'static str,
    /// The environment variable: `NIBIRU_MAX_BODY`.
    pub variable: &'static str,
    /// The name of the value in the help: `SIZE`.
    pub value: &'static str,
    /// The default as the help shows it; `None` where the help shows none.
    pub default: Option<&'static str>,
    /// When a new value takes effect.
    pub changes: Change,
    /// Whether `off` is a value of this setting.
    pub can_be_off: bool,
}

/// When a new value of a setting takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// At the next reload.
    Reload,
    /// At the next start; a running server keeps the old value.
    Restart,
}

/// A field of [`Options`](super::Options): given, or left to the layer below.
pub(super) trait Layer {
    /// The value given here, or else the one of `below`.
    fn or_below(self, below: Self) -> Self;
}

impl<T> Layer for Option<T> {
    fn or_below(self, below: Self) -> Self {
        self.or(below)
    }
}

impl<T> Layer for Vec<T> {
    fn or_below(self, below: Self) -> Self {
        if self.is_empty() { below } else { self }
    }
}

/// How a name is derived from the identifier of a field.
pub(super) enum Spelling {
    /// `max-body`
    Key,
    /// `MAX_BODY`
    Variable,
}

/// The bytes of `prefix` and the identifier in that spelling; `N` is the length of both.
pub(super) const fn spelt<const N: usize>(prefix: &str, identifier: &str, spelling: &Spelling) -> [u8; N] {
    let (prefix, identifier) = (prefix.as_bytes(), identifier.as_bytes());
    assert!(N == prefix.len() + identifier.len());
    let (mut name, mut at) = ([0; N], 0);
    while at < N {
        name[at] = match at.checked_sub(prefix.len()) {
            None => prefix[at],
            Some(at) => match (identifier[at], spelling) {
                (b'_', Spelling::Key) => b'-',
                (byte, Spelling::Key) => byte,
                (byte, Spelling::Variable) => byte.to_ascii_uppercase(),
            },
        };
        at += 1;
    }
    name
}

/// The name of a field, as a constant string.
macro_rules! name {
    ($prefix:literal, $field:ident, $spelling:ident) => {{
        const NAME: &[u8] = &$crate::config::table::spelt::<{ $prefix.len() + stringify!($field).len() }>(
            $prefix,
            stringify!($field),
            &$crate::config::table::Spelling::$spelling,
        );
        match std::str::from_utf8(NAME) {
            Ok(name) => name,
            Err(_) => panic!("an identifier is ASCII here"),
        }
    }};
}

/// The type of a field of `WithDefaults`: bare where the table has a fixed default.
macro_rules! defaulted_type {
    ([$type:ty] [] [$default:literal]) => { $type };
    ([$type:ty] [] []) => { Option<$type> };
    ([] [$item:ty] []) => { Vec<$item> };
}

/// The value of a field of `WithDefaults`.
macro_rules! defaulted_value {
    ($given:expr, [$default:literal]) => {
        $given.unwrap_or_else(|| $crate::config::de::fixed_default($default))
    };
    ($given:expr, []) => {
        $given
    };
}

/// Keeps the old value of a setting that takes a restart, and notes its key where the new value differs.
macro_rules! keep {
    (Restart, $field:ident, $new:expr, $old:expr, $differ:expr) => {
        if $new.$field != $old.$field {
            $new.$field.clone_from(&$old.$field);
            $differ.push(name!("", $field, Key));
        }
    };
    (Reload, $field:ident, $new:expr, $old:expr, $differ:expr) => {};
}

/// The table of settings: generates `Options`, `WithDefaults`, `SETTINGS` and the check of a reload.
macro_rules! settings {
    ($(
        #[doc = $help:literal]
        $field:ident: $(Option<$type:ty>)? $(Vec<$item:ty>)? {
            $(value: $value:literal)? $(argument: $argument:literal)?
            $(, default: $default:literal)? $(, derived: $derived:literal)?,
            changes: $change:ident
            $(, short_help: $short_help:literal)?
        }
    )+) => {
        /// Every setting, each optional. Also the keys of `nibiru.toml`.
        #[derive(Clone, Debug, Default, clap::Args, serde::Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub struct Options {$(
            #[doc = $help]
            #[arg(
                env = name!("NIBIRU_", $field, Variable),
                help = concat!($help, $(" [", $default, "]",)? $(" [", $derived, "]",)?).trim_start(),
                $(long, value_name = $value,)?
                $(value_name = $argument,)?
                $(hide_short_help = !$short_help,)?
            )]
            $(#[serde(deserialize_with = "super::de::value")] pub $field: Option<$type>,)?
            $(
                #[arg(value_delimiter = ',')]
                #[serde(deserialize_with = "super::de::list")]
                pub $field: Vec<$item>,
            )?
        )+}

        impl Options {
            /// Takes from `below` every setting that is not given here.
            #[must_use]
            pub fn or(self, below: Self) -> Self {
                Self { $($field: $crate::config::table::Layer::or_below(self.$field, below.$field),)+ }
            }

            /// Fills the fixed defaults in.
            pub(super) fn defaulted(self) -> WithDefaults {
                WithDefaults { $($field: defaulted_value!(self.$field, [$($default)?]),)+ }
            }
        }

        /// The options with the fixed defaults. A field that [`Config::new`](super::Config::new) forgets is dead code, which the
        /// compiler refuses.
        pub(super) struct WithDefaults {
            $(pub(super) $field: defaulted_type!([$($type)?] [$($item)?] [$($default)?]),)+
        }

        /// The table of settings, in the order of the help.
        pub const SETTINGS: &[$crate::config::Setting] = &[$(
            $crate::config::Setting {
                key: name!("", $field, Key),
                variable: name!("NIBIRU_", $field, Variable),
                value: concat!($($value)? $($argument)?),
                default: {
                    let shown = concat!($($default)? $($derived)?);
                    if shown.is_empty() { None } else { Some(shown) }
                },
                changes: $crate::config::Change::$change,
                can_be_off: <$($type)? $($item)? as $crate::config::de::FromFile>::CAN_BE_OFF,
            },
        )+];

        impl $crate::config::Config {
            /// Takes from `old` every setting that needs a restart. Returns the keys of those that would differ.
            pub fn keep_what_needs_a_restart(&mut self, old: &Self) -> Vec<&'static str> {
                let mut differ = Vec::new();
                $(keep!($change, $field, self, old, differ);)+
                differ
            }
        }
    };
}
