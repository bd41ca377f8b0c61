//! Services that are added to and removed from the text of a configuration, which otherwise stays as it is, comments and all.
//!
//! Whether the result is a configuration is for `config` to say: it is read as any file is.

use toml_edit::{DocumentMut, Item, Table};

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
