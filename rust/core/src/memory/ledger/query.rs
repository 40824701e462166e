//! Questions to the database.

use rusqlite::{Connection, named_params};
use serde::{Deserialize, Serialize};

use super::row::Row;

/// Which rows are meant.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Filter {
    /// Of this model; of all where none.
    pub model: Option<String>,
    /// That arrived then or later.
    pub since_unix_s: Option<f64>,
}

/// A row with its place in the ledger.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Recorded {
    /// Rises from row to row.
    pub id: i64,
    /// The row.
    #[serde(flatten)]
    pub row: Row,
}

const MEANT: &str = "(:model IS NULL OR model = :model) AND (:since IS NULL OR arrived_unix_s >= :since)";

/// The rows that were recorded last, in the order in which they were.
pub(super) fn latest(connection: &Connection, filter: &Filter, limit: u64) -> rusqlite::Result<Vec<Recorded>> {
    let mut rows = select(connection, filter, i64::MIN, "DESC", limit)?;
    rows.reverse();
    Ok(rows)
}

/// The first rows after one, in the order in which they were recorded.
pub(super) fn page(
    connection: &Connection,
    filter: &Filter,
    after_id: i64,
    limit: u64,
) -> rusqlite::Result<Vec<Recorded>> {
    select(connection, filter, after_id, "ASC", limit)
}

fn select(
    connection: &Connection,
    filter: &Filter,
    after_id: i64,
    order: &str,
    limit: u64,
) -> rusqlite::Result<Vec<Recorded>> {
    let columns = Row::COLUMNS.join(", ");
    let mut statement = connection.prepare(&format!(
        "SELECT id, {columns} FROM requests WHERE id > :after AND {MEANT} ORDER BY id {order} LIMIT :limit"
    ))?;
    let parameters = named_params! {
        ":after": after_id,
        ":model": filter.model,
        ":since": filter.since_unix_s,
        ":limit": i64::try_from(limit).unwrap_or(i64::MAX),
    };
    let rows = statement.query_map(parameters, |row| Ok(Recorded { id: row.get("id")?, row: Row::read(row)? }))?;
    rows.collect()
}
