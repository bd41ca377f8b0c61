//! Services that are added to and removed from the text of a configuration, and orders about backends that are entered in it. All
//! else stays as it is, comments included.
//!
//! Whether the result is a configuration is for `config` to say: it is read as any file is.

use toml_edit::{DocumentMut, InlineTable, Item, Table, Value};

use crate::api::Order;

/// The text with one more service: `body` is what stands under its header.
pub fn add_service(text: &str, name: &str, body: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let mut table: Table = parse(body).map_err(|e| format!("service {name}: {e}"))?.as_table().clone();
    table.set_implicit(false);
    table.decor_mut().set_prefix("\n");
    table.set_position(None);
    let services = document.entry("service").or_insert_with(|| {
        let mut services = Table::new();
        services.set_implicit(true);
        Item::Table(services)
    });
    let services = services.as_table_mut().ok_or("the services are no tables `[service.NAME]`")?;
    if services.contains_key(name) {
        return Err(format!("there is a service {name} already"));
    }
    services.insert(name, Item::Table(table));
    Ok(document.to_string())
}

/// The text without a service.
pub fn remove_service(text: &str, name: &str) -> Result<String, String> {
    let mut document = parse(text)?;
    let services = document.get_mut("service").and_then(Item::as_table_like_mut);
    let removed = services.and_then(|services| services.remove(name));
    removed.map(|_| document.to_string()).ok_or_else(|| format!("there is no service {name}"))
}

/// The text with an order about the `place`th backend of a service.
pub fn set_backend(text: &str, service: &str, place: usize, order: Order) -> Result<String, String> {
    let (key, value) = match order {
        Order::Weight(Some(weight)) => ("weight", Some(Value::from(i64::from(weight)))),
        Order::Weight(None) => ("weight", None),
        Order::Drain => ("state", Some("drain".into())),
        Order::Maint => ("state", Some("maint".into())),
        Order::Ready => ("state", None),
    };
    let mut document = parse(text)?;
    let services = document.get_mut("service").and_then(Item::as_table_like_mut);
    let service = services.and_then(|services| services.get_mut(service)).and_then(Item::as_table_like_mut);
    let set = match service.and_then(|service| service.get_mut("backend")) {
        Some(Item::ArrayOfTables(all)) => all.get_mut(place).map(|table| set(table, key, value)),
        Some(Item::Value(Value::Array(all))) => {
            let table = all.get_mut(place).and_then(Value::as_inline_table_mut);
            table.map(|table| set_inline(table, key, value))
        }
        _ => None,
    };
    set.map(|()| document.to_string())
        .ok_or_else(|| "the backend is in no place where it can be changed".into())
}

fn set(table: &mut Table, key: &str, value: Option<Value>) {
    match (table.get_mut(key).and_then(Item::as_value_mut), value) {
        (Some(old), Some(new)) => replace(old, new),
        (None, Some(new)) => drop(table.insert(key, Item::Value(new))),
        (_, None) => drop(table.remove(key)),
    }
}

/// The last value has the space before the closing brace, whichever it is.
fn set_inline(table: &mut InlineTable, key: &str, value: Option<Value>) {
    let last = |table: &mut InlineTable| -> Option<String> {
        let (_, value) = table.iter_mut().last()?;
        let suffix = value.decor().suffix().and_then(|s| s.as_str()).unwrap_or_default().to_owned();
        value.decor_mut().set_suffix("");
        Some(suffix)
    };
    let space = last(table);
    match (table.get_mut(key), value) {
        (Some(old), Some(new)) => replace(old, new),
        (None, Some(new)) => drop(table.insert(key, new)),
        (_, None) => drop(table.remove(key)),
    }
    if let Some((space, (_, value))) = space.zip(table.iter_mut().last()) {
        value.decor_mut().set_suffix(space);
    }
}

/// With the space and the comment that stand around it.
fn replace(old: &mut Value, mut new: Value) {
    *new.decor_mut() = old.decor().clone();
    *old = new;
}

fn parse(text: &str) -> Result<DocumentMut, String> {
    text.parse().map_err(|e: toml_edit::TomlError| e.message().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "\
# of this node
[node]
name = \"h1\" # its name

# the databases
[service.db]
listen = \"172.18.0.201:3306\"
backend = [
    { address = \"172.18.0.2\" }, # the first
]

# the rest
[http]
listen = \"127.0.0.1:9112\"
";

    #[test]
    fn an_order_about_a_backend_is_entered_where_the_backend_is_and_taken_out_again() {
        let drained = set_backend(FILE, "db", 0, Order::Drain).unwrap();
        let line = "    { address = \"172.18.0.2\", state = \"drain\" }, # the first\n";
        assert_eq!(drained, FILE.replace("    { address = \"172.18.0.2\" }, # the first\n", line));
        let maint = set_backend(&drained, "db", 0, Order::Maint).unwrap();
        assert_eq!(maint, drained.replace("drain", "maint"));
        let both = set_backend(&maint, "db", 0, Order::Weight(Some(7))).unwrap();
        assert!(both.contains("state = \"maint\", weight = 7 }, # the first"), "{both}");
        let weighted = set_backend(&both, "db", 0, Order::Ready).unwrap();
        assert!(weighted.contains("{ address = \"172.18.0.2\", weight = 7 }, # the first"), "{weighted}");
        assert_eq!(set_backend(&weighted, "db", 0, Order::Weight(None)).unwrap(), FILE);
        assert_eq!(set_backend(FILE, "db", 0, Order::Ready).unwrap(), FILE);

        let tables = "[[service.db.backend]]\naddress = \"172.18.0.2\" # one\n\n[[service.db.backend]] # two\n\
                      weight = 3 # of ten\naddress = \"172.18.0.3\"\n\n[http]\n";
        let weighted = set_backend(tables, "db", 1, Order::Weight(Some(9))).unwrap();
        assert_eq!(weighted, tables.replace("weight = 3", "weight = 9"));
        let drained = set_backend(tables, "db", 0, Order::Drain).unwrap();
        assert_eq!(drained, tables.replace("# one\n", "# one\nstate = \"drain\"\n"));
        assert!(set_backend(tables, "db", 2, Order::Drain).is_err());
        assert!(set_backend(tables, "web", 0, Order::Drain).is_err());
    }

    #[test]
    fn a_service_comes_and_goes_and_everything_else_stays_as_it_is_written() {
        let body = "listen = \"172.18.0.201:80\"\nbackend = [{ address = \"172.18.0.3\", weight = 5 }]\n";
        let with = add_service(FILE, "web", body).unwrap();
        assert!(with.contains(&format!("\n[service.web]\n{body}")), "{with}");
        for line in FILE.lines() {
            assert!(with.contains(line), "{line} is missing from\n{with}");
        }
        assert_eq!(add_service(&with, "web", body).unwrap_err(), "there is a service web already");
        assert_eq!(remove_service(&with, "web").unwrap(), FILE);
        let without = remove_service(FILE, "db").unwrap();
        assert!(
            !without.contains("172.18.0.2") && without.contains("# its name") && without.contains("[http]")
        );
        assert_eq!(remove_service(&without, "db").unwrap_err(), "there is no service db");
        assert!(add_service(&without, "db", body).unwrap().contains("[service.db]"));
        assert!(add_service(FILE, "web", "listen = ").is_err());
    }
}
