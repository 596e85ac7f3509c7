//! JUnit reports, as CI servers read them: Jenkins' schema `junit-10.xsd`, of which GitLab and the reporters of GitHub
//! Actions read a part.

use crate::AnyError;
use crate::output::Claim;
use quick_xml::events::{BytesDecl, BytesText, Event};
use quick_xml::writer::Writer;
use std::io;

/// What ran together, such as all cases on one adapter.
pub struct TestSuite {
    /// Its name.
    pub name: String,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// What it consists of.
    pub cases: Vec<TestCase>,
}

/// One case.
pub struct TestCase {
    /// Its name, unique among those of its class.
    pub name: String,
    /// What it belongs to, parts separated by dots: servers make a tree of it.
    pub class: String,
    /// How long it took, in seconds, where that was measured.
    pub seconds: Option<f64>,
    /// What came of it.
    pub status: Status,
}

/// What came of a case.
pub enum Status {
    /// As it should be.
    Passed,
    /// Not as it should be, and why. The first line is what servers show in lists.
    Failed(String),
    /// Not judged, and why.
    Skipped(String),
}

/// Writes a report.
///
/// # Errors
/// A file that cannot be written.
pub fn write(claim: &Claim, name: &str, suites: &[TestSuite]) -> Result<(), AnyError> {
    Ok(claim.write(&xml(name, suites)?)?)
}

fn xml(name: &str, suites: &[TestSuite]) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new_with_indent(Vec::new(), b' ', 2);
    writer.write_event(Event::Decl(BytesDecl::new("1.0", Some("UTF-8"), None)))?;
    let of_all = |test: fn(&TestCase) -> bool| count(suites.iter().flat_map(|suite| &suite.cases), test);
    // The schema counts what was skipped by suite only.
    let attributes = [
        ("name", text(name)),
        ("tests", of_all(|_| true)),
        ("failures", of_all(is_failed)),
        ("errors", "0".into()),
        ("time", seconds(suites.iter().fold(0.0, |sum, suite| sum + suite.seconds))),
    ];
    element(&mut writer, "testsuites", &attributes, |writer| {
        suites.iter().try_for_each(|suite| write_suite(writer, suite))
    })?;
    writer.write_event(Event::Text(BytesText::new("\n")))?;
    Ok(writer.into_inner())
}

fn write_suite(writer: &mut Writer<Vec<u8>>, suite: &TestSuite) -> io::Result<()> {
    let attributes = [
        ("name", text(&suite.name)),
        ("tests", count(&suite.cases, |_| true)),
        ("failures", count(&suite.cases, is_failed)),
        ("errors", "0".into()),
        ("skipped", count(&suite.cases, |case| matches!(case.status, Status::Skipped(_)))),
        ("time", seconds(suite.seconds)),
    ];
    element(writer, "testsuite", &attributes, |writer| suite.cases.iter().try_for_each(|case| write_case(writer, case)))
}

fn write_case(writer: &mut Writer<Vec<u8>>, case: &TestCase) -> io::Result<()> {
    let mut attributes = vec![("name", text(&case.name)), ("classname", text(&case.class))];
    attributes.extend(case.seconds.map(|time| ("time", seconds(time))));
    element(writer, "testcase", &attributes, |writer| match &case.status {
        Status::Passed => Ok(()),
        Status::Failed(why) => write_reason(writer, "failure", why),
        Status::Skipped(why) => write_reason(writer, "skipped", why),
    })
}

fn write_reason(writer: &mut Writer<Vec<u8>>, kind: &str, why: &str) -> io::Result<()> {
    let message = text(why.lines().next().unwrap_or_default());
    let reason = writer.create_element(kind).with_attribute(("message", message.as_str()));
    reason.write_text_content(BytesText::new(&text(why)))?;
    Ok(())
}

/// An element around what `inner` writes.
fn element(
    writer: &mut Writer<Vec<u8>>,
    name: &str,
    attributes: &[(&str, String)],
    inner: impl FnOnce(&mut Writer<Vec<u8>>) -> io::Result<()>,
) -> io::Result<()> {
    let attributes = attributes.iter().map(|(name, value)| (*name, value.as_str()));
    writer.create_element(name).with_attributes(attributes).write_inner_content(inner)?;
    Ok(())
}

fn count<'a>(cases: impl IntoIterator<Item = &'a TestCase>, test: impl Fn(&TestCase) -> bool) -> String {
    cases.into_iter().filter(|case| test(case)).count().to_string()
}

fn is_failed(case: &TestCase) -> bool {
    matches!(case.status, Status::Failed(_))
}

fn seconds(time: f64) -> String {
    format!("{time:.3}")
}

/// Without the characters that XML 1.0 cannot hold even escaped: messages may quote what a driver said.
fn text(of: &str) -> String {
    let allowed = |&c: &char| matches!(c, '\t' | '\n' | '\r') || (c >= ' ' && !matches!(c, '\u{fffe}' | '\u{ffff}'));
    of.chars().filter(allowed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use roxmltree::{Document, Node};

    /// Attributes of each element by the schema: those that must be there, and those that may.
    const ATTRIBUTES: [(&str, &[&str], &[&str]); 5] = [
        ("testsuites", &[], &["name", "time", "tests", "failures", "errors"]),
        ("testsuite", &["name", "tests", "failures", "errors"], &["time", "skipped", "timestamp", "hostname", "id"]),
        ("testcase", &["name"], &["time", "classname", "group"]),
        ("failure", &[], &["type", "message"]),
        ("skipped", &[], &["type", "message"]),
    ];
    /// What may lie in what.
    const CHILDREN: [(&str, &[&str]); 5] = [
        ("testsuites", &["testsuite"]),
        ("testsuite", &["testcase", "properties", "system-out", "system-err"]),
        ("testcase", &["failure", "skipped", "error", "system-out", "system-err"]),
        ("failure", &[]),
        ("skipped", &[]),
    ];

    /// Holds a report against the rules of `junit-10.xsd`, and what it counts against what it contains.
    fn check(xml: &str) {
        let document = Document::parse(xml).unwrap();
        assert_eq!(document.root_element().tag_name().name(), "testsuites");
        for node in document.descendants().filter(Node::is_element) {
            let name = node.tag_name().name();
            let (_, required, optional) = ATTRIBUTES.iter().find(|(element, ..)| *element == name).unwrap();
            let found: Vec<&str> = node.attributes().map(|attribute| attribute.name()).collect();
            assert!(required.iter().all(|one| found.contains(one)), "{name} has {found:?}, needs {required:?}");
            assert!(found.iter().all(|one| required.contains(one) || optional.contains(one)), "{name}: {found:?}");
            let (_, children) = CHILDREN.iter().find(|(element, _)| *element == name).unwrap();
            let wrong =
                node.children().find(|child| child.is_element() && !children.contains(&child.tag_name().name()));
            assert!(wrong.is_none(), "{name} holds {wrong:?}");
            // The schema's pattern: digits, a point, digits.
            let digits = |time: &str| time.split('.').all(|part| part.chars().all(|c| c.is_ascii_digit()));
            assert!(node.attribute("time").is_none_or(digits), "{name} took {:?}", node.attribute("time"));
        }
        for node in document.descendants().filter(|node| node.has_attribute("tests")) {
            for (attribute, element) in [("tests", "testcase"), ("failures", "failure"), ("skipped", "skipped")] {
                let within = node.descendants().filter(|inner| inner.has_tag_name(element)).count();
                let said = node.attribute(attribute);
                // Only suites count what was skipped.
                assert!(said.is_none_or(|said| said == within.to_string()), "{attribute} {said:?}, not {within}");
            }
        }
    }

    fn case(name: &str, status: Status) -> TestCase {
        TestCase { name: name.into(), class: "lavapipe.inference".into(), seconds: Some(0.25), status }
    }

    fn suites() -> Vec<TestSuite> {
        let hostile = "<y> & \"x\" differ\n\u{1b}[31mline 2\u{0} ]]> \u{fffe}é";
        let cases = vec![
            case("passes", Status::Passed),
            case("a \"quoted\" & <bracketed> name", Status::Failed(hostile.into())),
            TestCase { seconds: None, ..case("skips", Status::Skipped("no f16".into())) },
        ];
        let empty = TestSuite { name: "gl".into(), seconds: 0.0, cases: vec![] };
        vec![TestSuite { name: "lavapipe".into(), seconds: 12345.6789, cases }, empty]
    }

    #[test]
    fn a_report_follows_the_schema() {
        check(&String::from_utf8(xml("bn check", &suites()).unwrap()).unwrap());
        check(&String::from_utf8(xml("nothing", &[]).unwrap()).unwrap());
    }

    #[test]
    fn messages_survive_but_for_what_xml_cannot_hold() {
        let report = String::from_utf8(xml("bn check", &suites()).unwrap()).unwrap();
        let document = Document::parse(&report).unwrap();
        let find = |name| document.descendants().find(|node: &Node| node.has_tag_name(name)).unwrap();
        let failure = find("failure");
        assert_eq!(failure.attribute("message"), Some("<y> & \"x\" differ"));
        assert_eq!(failure.text(), Some("<y> & \"x\" differ\n[31mline 2 ]]> é"));
        assert_eq!(failure.parent().unwrap().attribute("name"), Some("a \"quoted\" & <bracketed> name"));
        assert_eq!(find("testsuite").attribute("time"), Some("12345.679"));
        assert_eq!(find("skipped").attribute("message"), Some("no f16"));
    }

    #[test]
    #[should_panic(expected = "failures")]
    fn a_wrong_count_is_seen() {
        let report = String::from_utf8(xml("bn check", &suites()).unwrap()).unwrap();
        check(&report.replace("failures=\"1\"", "failures=\"0\""));
    }
}
