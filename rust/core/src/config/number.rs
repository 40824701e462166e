//! Numbers that have limits.

use serde::{Deserialize, Serialize};

macro_rules! limited {
    ($(#[$doc:meta])* $name:ident, $holds:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, PartialOrd, Serialize, Deserialize)]
        #[cfg_attr(test, derive(schemars::JsonSchema))]
        #[serde(try_from = "f64")]
        pub struct $name(f64);

        impl $name {
            /// The number.
            #[must_use]
            pub fn get(self) -> f64 {
                self.0
            }
        }

        impl TryFrom<f64> for $name {
            type Error = String;

            fn try_from(number: f64) -> Result<Self, String> {
                let holds: fn(f64) -> bool = $holds;
                if holds(number) { Ok(Self(number)) } else { Err(format!("must be {}, not {number}", $expected)) }
            }
        }
    };
}

limited!(
    /// A part of a whole.
    Share, |number| (0.0..=1.0).contains(&number), "a number from 0 to 1"
);
limited!(
    /// A number of 0 or more.
    AtLeast0, |number| (0.0..f64::INFINITY).contains(&number), "a number of at least 0"
);
limited!(
    /// A number above 0, of seconds mostly; nothing lasts longer than a billion of them.
    Above0, |number| number > 0.0 && number < 1e9, "a number above 0 and below a billion"
);
limited!(
    /// What sampling takes off, or adds.
    Penalty, |number| (-2.0..=2.0).contains(&number), "a number from -2 to 2"
);
