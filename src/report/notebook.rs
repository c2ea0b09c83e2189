//! Values a notebook shows richly when a cell ends with one.
//!
//! The Rust kernel calls `evcxr_display` on the last value of a cell and reads
//! typed content from standard output between two markers.

use std::fmt;

fn show(mime: &str, content: &str) {
    println!("EVCXR_BEGIN_CONTENT {mime}\n{content}\nEVCXR_END_CONTENT");
}

macro_rules! content {
    ($(#[$doc:meta])* $name:ident, $mime:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct $name(pub String);

        impl $name {
            /// Called by the notebook kernel: prints the content with its type.
            pub fn evcxr_display(&self) {
                show($mime, &self.0);
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

content!(
    /// A piece of HTML, such as a table of [`super::table::html`].
    Html,
    "text/html"
);
content!(
    /// An SVG picture, such as a figure of [`super::figure::svg`].
    Svg,
    "image/svg+xml"
);
content!(
    /// A piece of Markdown, such as a table of [`super::table::markdown`].
    Markdown,
    "text/markdown"
);
