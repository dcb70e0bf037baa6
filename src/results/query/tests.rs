use polars::prelude::{IntoColumn as _, NamedFrom as _, ParquetWriter, Series};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::store::files;

fn write(folder: &Path, name: &str, columns: Vec<Series>) {
    let height = columns[0].len();
    let columns = columns.into_iter().map(polars::prelude::IntoColumn::into_column).collect();
    let mut frame = DataFrame::new(height, columns).unwrap();
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes).finish(&mut frame).unwrap();
    files::create_folder(folder).unwrap();
    files::write_atomic(folder.join(format!("{name}.parquet")), &bytes).unwrap();
}

/// Two sweeps of which one has an axis more, and another type of the same axis.
fn folder() -> (TempDir, Vec<Source>) {
    let dir = TempDir::new().unwrap();
    let _ = Series::new("x".into(), [1_i64]).into_column();
    for (name, tau) in [("one", Some([0.9_f64, 0.95])), ("two", None)] {
        let folder = dir.path().join(name);
        let mut points = vec![
            Series::new("sweep".into(), [name, name]),
            Series::new("id".into(), ["a", "b"]),
            Series::new("data.name".into(), ["phantom", "phantom"]),
            Series::new("dice".into(), [Some(0.5_f64), None]),
        ];
        match tau {
            Some(tau) => points.push(Series::new("tau".into(), tau)),
            None => points.push(Series::new("tau".into(), [1_i64, 2])),
        }
        write(&folder, "points", points);
        let cases = vec![
            Series::new("id".into(), ["a", "a", "b"]),
            Series::new("class".into(), ["LV", "RV", "LV"]),
            Series::new("dice".into(), [0.25_f64, 0.75, 0.5]),
        ];
        write(&folder, "cases", cases);
        let mut history = vec![Series::new("id".into(), ["a"]), Series::new("step".into(), [1_i64])];
        if tau.is_some() {
            history.push(Series::new("loss".into(), [2.0_f64]));
        }
        write(&folder, "history", history);
        write(&folder, "diffusion", vec![Series::new("model".into(), ["m"])]);
    }
    let sources = sources(dir.path()).unwrap();
    assert_eq!(sources.len(), 2);
    (dir, sources)
}

fn ask(sources: &[Source], sql: &str) -> Value {
    Value::Array(rows(&query(sql, sources).unwrap()).into_iter().map(Value::Object).collect())
}

#[test]
fn sweeps_are_stacked_under_their_names() {
    let (_dir, sources) = folder();
    let wanted = json!([{"sweep": "one", "n": 3, "dice": 0.5}, {"sweep": "two", "n": 3, "dice": 0.5}]);
    let sql = "SELECT sweep, COUNT(*) AS n, AVG(dice) AS dice FROM cases GROUP BY sweep ORDER BY sweep";
    assert_eq!(ask(&sources, sql), wanted);
    let taus = ask(&sources, "SELECT tau FROM points ORDER BY sweep, tau");
    assert_eq!(taus, json!([{"tau": 0.9}, {"tau": 0.95}, {"tau": 1.0}, {"tau": 2.0}]), "whole numbers widen");
    let losses = ask(&sources, "SELECT loss FROM history ORDER BY sweep");
    assert_eq!(losses, json!([{"loss": 2.0}, {"loss": null}]), "a column that one sweep has");
    assert_eq!(ask(&sources, "SELECT COUNT(*) AS n FROM diffusion"), json!([{"n": 2}]));
    let all = query("SELECT * FROM points", &sources).unwrap();
    assert_eq!((all.height(), all.width()), (4, 5), "sweep is not there twice");
    let joined = "SELECT p.sweep, c.class FROM points p JOIN cases c ON p.sweep = c.sweep AND p.id = c.id \
        WHERE p.\"data.name\" = 'phantom' AND c.dice > 0.6 ORDER BY p.sweep";
    assert_eq!(ask(&sources, joined)[1], json!({"sweep": "two", "class": "RV"}));
    let one = &sources[..1];
    assert_eq!(
        ask(one, "WITH x AS (SELECT dice FROM cases) SELECT SUM(dice) AS s FROM x"),
        json!([{"s": 1.5}])
    );
}

#[test]
fn wrong_queries_name_what_there_is() {
    let (_dir, sources) = folder();
    let error = |sql: &str| format!("{:#}", query(sql, &sources).expect_err("a wrong query"));
    for (sql, word) in [
        ("SELECT dicee FROM cases", "did you mean `dice`"),
        ("SELECT dice FROM casess", "did you mean `cases`"),
        ("SELEC dice", "SELEC"),
        ("SELECT dice FROM", "sweep query"),
        ("", "empty"),
        ("SELECT * FROM read_csv('x.csv')", "frames only"),
    ] {
        let error = error(sql);
        assert!(error.contains(word), "{sql}: {error}");
    }
    let none: Vec<Source> = Vec::new();
    assert!(format!("{:#}", query("SELECT 1 FROM points", &none).unwrap_err()).contains("no frames"));
}

#[test]
fn columns_are_listed_with_their_types() {
    let (_dir, sources) = folder();
    let schema = schema(&sources).unwrap();
    let points: Vec<(&str, &str)> =
        schema[0].1.iter().map(|field| (field.name.as_str(), field.kind.as_str())).collect();
    assert_eq!(
        points,
        [("sweep", "str"), ("id", "str"), ("data.name", "str"), ("dice", "f64"), ("tau", "f64")]
    );
}

/// Damaged queries end in an answer or an error, whatever Polars makes of them.
#[test]
fn no_query_panics() {
    use rand::Rng as _;
    let (_dir, sources) = folder();
    let words = [
        "SELECT",
        "*",
        "FROM",
        "points",
        "cases",
        "WHERE",
        "dice",
        ">",
        "0.5",
        "(",
        ")",
        "GROUP",
        "BY",
        "ORDER",
        "'",
        "\"",
        "AVG(dice)",
        "COUNT(*)",
        "JOIN",
        "USING",
        "(id)",
        "LIMIT",
        "-1",
        "NULL",
        "UNION",
        "ALL",
        ",",
        "OVER",
        "PARTITION",
        "IN",
        "LIKE",
        "CASE",
        "WHEN",
        "THEN",
        "END",
        "CAST(dice AS",
        "INT)",
        "DISTINCT",
        "EXPLAIN",
        "SHOW TABLES",
        "DROP TABLE points",
        "CREATE TABLE x AS",
        "NATURAL",
        "HAVING",
        "1/0",
        "tau::date",
        "RANK()",
    ];
    for round in 0..400_u64 {
        let mut rng = crate::rng::stream(3, "queries", round);
        let count = rng.random_range(1..14);
        let mut sql = String::from(if round % 2 == 0 { "SELECT dice FROM cases " } else { "" });
        for _ in 0..count {
            sql.push_str(words[rng.random_range(0..words.len())]);
            sql.push(' ');
        }
        let _ = query(&sql, &sources);
    }
}
