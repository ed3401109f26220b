//! Reads lines of JSON {secret, headers, body}; says of each whether Standard Webhooks' library for Rust takes it.
use std::io::BufRead;

fn main() {
    for line in std::io::stdin().lock().lines() {
        let message: serde_json::Value = serde_json::from_str(&line.unwrap()).unwrap();
        let mut headers = http::HeaderMap::new();
        for (name, value) in message["headers"].as_object().unwrap() {
            let name = http::header::HeaderName::from_bytes(name.as_bytes()).unwrap();
            headers.insert(name, value.as_str().unwrap().parse().unwrap());
        }
        let body = message["body"].as_str().unwrap().as_bytes();
        let good = standardwebhooks::Webhook::new(message["secret"].as_str().unwrap())
            .and_then(|hook| hook.verify(body, &headers))
            .is_ok();
        println!("{good}");
    }
}
