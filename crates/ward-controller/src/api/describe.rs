//! Completes the description of the API with what holds for all of it, so that no handler repeats it: every status that
//! an error can come with, the header by which a list goes on, the header by which a repetition is known.

use serde_json::{Map, Value, json};
use utoipa::PartialSchema as _;
use utoipa::openapi::OpenApi;
use ward_types::{Code, ProblemDocument};

use super::repeat;

/// The part of the description that is put in place of errors.
const PROBLEM: &str = "ProblemDocument";

/// The description, complete.
pub(super) fn complete(description: &OpenApi) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(description)?;
    document["components"]["schemas"][PROBLEM] = serde_json::to_value(ProblemDocument::schema())?;
    mend_numbers(&mut document);
    if let Some(paths) = document["paths"].as_object_mut() {
        for (path, item) in paths {
            for (method, operation) in item.as_object_mut().into_iter().flatten() {
                if let Some(operation) = operation.as_object_mut() {
                    complete_operation(path, method, operation);
                }
            }
        }
    }
    Ok(document)
}

/// A number that can't be negative is described as a signed one of its width, which it is not.
fn mend_numbers(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if fields.get("minimum").and_then(Value::as_u64).is_some() {
                fields.remove("format");
            }
            fields.values_mut().for_each(mend_numbers);
        }
        Value::Array(items) => items.iter_mut().for_each(mend_numbers),
        _ => {}
    }
}

fn complete_operation(path: &str, method: &str, operation: &mut Map<String, Value>) {
    let open = operation.get("security").is_some_and(|security| security == &json!([{}]));
    let has_body = operation.contains_key("requestBody");
    let parameters = operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default();
    let has = |place: &str| parameters.iter().any(|parameter| parameter["in"] == place);
    let changes = method != "get";
    let may_be_repeated = changes && !open;
    let is_list = operation["responses"]["200"]["content"]["application/json"]["schema"]["type"] == "array";
    if may_be_repeated {
        let key = json!({
            "name": repeat::HEADER,
            "in": "header",
            "required": false,
            "description": "Makes the request one that may be sent again within 7 days: it is done once, and answered as the \
                first time while its user's permissions are the same.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$" },
        });
        if let Some(parameters) = operation.entry("parameters").or_insert_with(|| json!([])).as_array_mut() {
            parameters.push(key);
        }
    }
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    responses.remove("4XX");
    if is_list && has("query") {
        responses["200"]["headers"] = json!({ "Link": {
            "description": "Where the list goes on: `<URL>; rel=\"next\"`. Absent on the last page.",
            "schema": { "type": "string" },
        }});
    }
    let mut statuses = vec![500];
    let applies = [
        (!open, [401, 403].as_slice()),
        // The login: it may be refused, and whoever guesses must wait.
        (open && changes, &[403, 429]),
        (path.ends_with("/session/password"), &[429]),
        (has("path") || has("query") || has_body, &[400, 404]),
        (has_body, &[413, 415]),
        (may_be_repeated, &[400, 413, 422]),
        (changes, &[409]),
        // Those who have others do the work.
        (
            path.contains("/vms")
                || path.ends_with("/register")
                || path.ends_with("/remediate")
                || path.contains("/providers")
                || path.contains("/tasks")
                || path.contains("/keys")
                || path.contains("/hosts"),
            &[409, 502, 507],
        ),
    ];
    statuses.extend(applies.iter().filter(|(applies, _)| *applies).flat_map(|(_, statuses)| statuses.iter().copied()));
    statuses.sort_unstable();
    statuses.dedup();
    for status in statuses {
        responses.insert(status.to_string(), problem(status));
    }
}

fn problem(status: u16) -> Value {
    let codes = Code::ALL.iter().filter(|code| code.http_status() == status);
    let meanings: Vec<_> = codes.map(|code| format!("`{code}`: {}", code.title())).collect();
    let schema = json!({ "$ref": format!("#/components/schemas/{PROBLEM}") });
    let content = Map::from_iter([(ProblemDocument::MEDIA_TYPE.to_owned(), json!({ "schema": schema }))]);
    json!({ "description": meanings.join(" "), "content": content })
}
