//! The published schema says what the report is.

use super::Reports;
use std::path::Path;

/// To write it anew after a change: TAMBORIM_WRITE_SCHEMA=1 cargo test --release --bin tamborim schema
#[test]
fn the_published_schema_is_that_of_the_report() {
    let settings = schemars::generate::SchemaSettings::draft2020_12().for_serialize();
    let schema = settings.into_generator().into_root_schema_for::<Reports>();
    let text = serde_json::to_string_pretty(&schema).expect("JSON") + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/report.schema.json");
    if std::env::var_os("TAMBORIM_WRITE_SCHEMA").is_some() {
        std::fs::write(&path, &text).expect("the schema");
    }
    let published = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(published == text, "{} is not what the report is: see {}", path.display(), file!());
}
