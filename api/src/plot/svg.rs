//! Writes SVG: shapes by class, text escaped, one style sheet for light and dark.

/// Where a text's position is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Anchor {
    Start,
    End,
}

impl Anchor {
    fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::End => "end",
        }
    }
}

/// The picture has its own background, so its text can be read wherever it is shown.
const STYLE: &str = "\
.back{fill:#ffffff}text{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,sans-serif;font-size:12px;fill:#1f2328}\
.title{font-size:20px;font-weight:600}.head{font-size:13px;font-weight:600}.note{font-size:11.5px;fill:#59636e}\
.tick{font-size:10.5px;fill:#59636e}.grid{stroke:#d8dee4;stroke-width:1}.frame{fill:none;stroke:#d8dee4;stroke-width:1}\
.bar{fill:#4a7fc1}.load{fill:#7a9e6f}.whisker{stroke:#1f2328;stroke-width:1.5}.band{fill:#4a7fc1;fill-opacity:.16}\
.mid{stroke:#2f62a3;stroke-width:1.5}.tail{stroke:#b3541e;stroke-width:1;stroke-dasharray:4 3}\
.run{fill:#2f62a3}.early{fill:#a8b1ba}.outlier{fill:none;stroke:#b3541e;stroke-width:1.8}.warn{fill:#b3541e}\
@media (prefers-color-scheme:dark){.back{fill:#12161c}text{fill:#e6edf3}.note,.tick{fill:#9aa5b1}\
.grid,.frame{stroke:#2f3742}.bar{fill:#5b93d8}.load{fill:#86b07a}.whisker{stroke:#e6edf3}.band{fill:#5b93d8;fill-opacity:.22}\
.mid{stroke:#8ab8f0}.tail,.outlier{stroke:#f0935a}.run{fill:#8ab8f0}.early{fill:#5c6672}.warn{fill:#f0935a}}";

/// A picture that is being drawn.
#[derive(Debug)]
pub(super) struct Canvas {
    width: f64,
    height: f64,
    body: String,
}

impl Canvas {
    pub(super) fn new(width: f64, height: f64) -> Self {
        Self { width, height, body: String::new() }
    }

    pub(super) fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, class: &str, text: &str) {
        let (anchor, text) = (anchor.as_str(), escaped(text));
        self.body.push_str(&format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{class}\">{text}</text>\n"
        ));
    }

    pub(super) fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), class: &str) {
        let (width, height) = (width.max(0.0), height.max(0.0));
        self.body.push_str(&format!(
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" class=\"{class}\"/>\n"
        ));
    }

    pub(super) fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), class: &str) {
        self.body.push_str(&format!(
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{class}\"/>\n"
        ));
    }

    /// A circle with a text that a browser shows for it.
    pub(super) fn circle(&mut self, (x, y): (f64, f64), radius: f64, class: &str, about: &str) {
        let about = escaped(about);
        self.body.push_str(&format!(
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius:.1}\" class=\"{class}\"><title>{about}</title></circle>\n"
        ));
    }

    /// The document.
    pub(super) fn end(self, title: &str) -> String {
        let Self { width, height, body } = self;
        let title = escaped(title);
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width:.0}\" height=\"{height:.0}\" \
             viewBox=\"0 0 {width:.0} {height:.0}\" role=\"img\">\n<title>{title}</title>\n<style>{STYLE}</style>\n\
             <rect width=\"100%\" height=\"100%\" class=\"back\"/>\n{body}</svg>\n"
        )
    }
}

/// A text that is nothing but text in XML. Control characters are none in XML and are left out.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            c if c.is_control() || matches!(c, '\u{fffe}' | '\u{ffff}') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

/// At most so many characters, with a mark where some are missing.
pub(super) fn shortened(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    text.chars().take(most.saturating_sub(1)).chain(['…']).collect()
}
