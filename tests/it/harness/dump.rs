//! Everything that a database holds, as text.

use sea_orm::{ConnectionTrait, DatabaseConnection, DbBackend, Statement};

/// Every row of every table, with binary values in hexadecimal digits.
pub async fn dump(database: &DatabaseConnection) -> String {
    let backend = database.get_database_backend();
    let names = match backend {
        DbBackend::Sqlite => "SELECT name AS n FROM sqlite_master WHERE type = 'table'",
        _ => "SELECT table_name::text AS n FROM information_schema.tables WHERE table_schema = 'public'",
    };
    let mut out = String::new();
    for table in texts(database, names).await {
        out.extend(["== ", &table, "\n"]);
        let rows = match backend {
            DbBackend::Sqlite => {
                let columns = texts(database, &format!("SELECT name AS n FROM pragma_table_info('{table}')")).await;
                let columns: Vec<String> = columns.iter().map(|name| format!("quote(\"{name}\")")).collect();
                format!("SELECT {} AS n FROM \"{table}\"", columns.join(" || ' ' || "))
            }
            _ => format!("SELECT t::text AS n FROM \"{table}\" AS t"),
        };
        for row in texts(database, &rows).await {
            out.push_str(&row);
            out.push('\n');
        }
    }
    out
}

/// The column `n` of a query, as texts.
pub async fn texts(database: &DatabaseConnection, query: &str) -> Vec<String> {
    let statement = Statement::from_string(database.get_database_backend(), query.to_owned());
    let rows = database.query_all_raw(statement).await.unwrap();
    rows.iter().map(|row| row.try_get("", "n").unwrap()).collect()
}

/// The only value of a query, its column `n`, as a number.
pub async fn number(database: &DatabaseConnection, query: &str) -> i64 {
    let statement = Statement::from_string(database.get_database_backend(), query.to_owned());
    database.query_one_raw(statement).await.unwrap().unwrap().try_get("", "n").unwrap()
}

/// Whether `dump` holds `needle`, as text or in hexadecimal digits.
pub fn holds(dump: &str, needle: &str) -> bool {
    let hexadecimal: Vec<String> = needle.bytes().map(|byte| format!("{byte:02x}")).collect();
    dump.contains(needle) || dump.to_ascii_lowercase().contains(&hexadecimal.concat())
}
