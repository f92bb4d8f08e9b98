//! What keeps a store small. A quota that is reached: what is refused, what still works, and the way
//! back without a restart or a defragmentation (delete, compact, end the alarm). And history that
//! leaves by itself.

mod common;

use common::Server;
use common::http::b64;
use serde_json::{Value, json};

const QUOTA_BYTES: &str = "2000000";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

fn limited() -> Server {
    Server::start_with(|command| {
        command.args(["--quota-backend-bytes", QUOTA_BYTES]);
    })
}

/// Puts values of 100 KB until one is refused; how many were taken.
fn fill(server: &Server) -> usize {
    let value = b64("v".repeat(100_000));
    for n in 0..100 {
        let put = json!({"key": b64(format!("fill{n:03}")), "value": value});
        let (status, answer) = server.call("/v3/kv/put", &put);
        if status != 200 {
            assert_eq!((status, &answer), (429, &json!({"code": 8, "message": NO_SPACE})));
            return n;
        }
    }
    panic!("10 MB fit into {QUOTA_BYTES} bytes");
}

fn status(server: &Server) -> Value {
    let (status, answer) = server.call("/v3/maintenance/status", &json!({}));
    assert_eq!(status, 200, "{answer}");
    answer
}

fn number(answer: &Value, field: &str) -> i64 {
    answer[field].as_str().and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn alarms(server: &Server, action: &str) -> Value {
    let member = status(server)["header"]["member_id"].clone();
    let request = match action {
        "GET" => json!({}),
        _ => json!({"action": action, "memberID": member, "alarm": "NOSPACE"}),
    };
    let (status, answer) = server.call("/v3/maintenance/alarm", &request);
    assert_eq!(status, 200, "{answer}");
    answer["alarms"].clone()
}

fn page(server: &Server, path: &str) -> (u16, String) {
    let answer = server.http().request("GET", path, b"").expect("an answer");
    (answer.status, answer.text())
}

fn put(server: &Server, key: &str) -> u16 {
    server.call("/v3/kv/put", &json!({"key": b64(key), "value": b64("1")})).0
}

#[test]
fn a_full_store_refuses_to_grow_until_it_was_emptied_and_the_alarm_ended() {
    let mut server = limited();
    server.put("small", "1");
    let taken = fill(&server);
    assert!((10..20).contains(&taken), "{taken} values of 100 KB");
    let member = status(&server)["header"]["member_id"].clone();
    let raised = json!([{"memberID": member, "alarm": "NOSPACE"}]);
    assert_eq!(alarms(&server, "GET"), raised);

    let refused = [
        ("/v3/kv/put", json!({"key": b64("small")})),
        ("/v3/kv/txn", json!({"success": [{"request_put": {"key": b64("small")}}]})),
        ("/v3/lease/grant", json!({"TTL": "10"})),
    ];
    for (path, body) in &refused {
        let answer = server.call(path, body);
        assert_eq!(answer, (429, json!({"code": 8, "message": NO_SPACE})), "{path}");
    }
    assert_eq!(server.get("small").as_deref(), Some("1"), "reads go on");
    let health = page(&server, "/health");
    assert_eq!(health, (503, "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n".to_owned()));
    assert_eq!(page(&server, "/health?exclude=NOSPACE").0, 200);
    assert_eq!(page(&server, "/readyz").0, 200);

    // The alarm is in the log: it is still there after a crash, whatever the quota is then.
    server.crash();
    assert_eq!(alarms(&server, "GET"), raised);
    assert_eq!(put(&server, "small"), 429);
    server.process.kill();
    let mut command = server.place.command();
    command.args(["--quota-backend-bytes", QUOTA_BYTES]);
    server.process = common::Process::spawn(&mut command);
    assert!(server.process.output.wait_for(common::READY, 0));

    let full = number(&status(&server), "dbSizeInUse");
    let delete = json!({"key": b64("fill"), "range_end": b64("film")});
    let (code, answer) = server.call("/v3/kv/deleterange", &delete);
    assert_eq!((code, number(&answer, "deleted")), (200, taken as i64), "deletes go on");
    let revision = &answer["header"]["revision"];
    let compact = json!({"revision": revision, "physical": true});
    assert_eq!(server.call("/v3/kv/compaction", &compact).0, 200, "compaction goes on");
    let now = status(&server);
    let emptied = number(&now, "dbSizeInUse");
    assert!(emptied < full / 10, "{full} bytes before, {emptied} after");
    assert_eq!(now["dbSizeQuota"], QUOTA_BYTES);
    assert_eq!(put(&server, "small"), 429, "until somebody ends the alarm");
    assert_eq!(alarms(&server, "DEACTIVATE"), raised);
    assert_eq!(put(&server, "small"), 200);
    assert_eq!(page(&server, "/health").0, 200);
    assert_eq!(fill(&server), taken, "as much fits as before");
}

#[test]
fn without_room_the_alarm_comes_back_with_the_next_request() {
    let server = limited();
    let taken = fill(&server);
    assert_ne!(alarms(&server, "DEACTIVATE"), Value::Null);
    assert_eq!(alarms(&server, "GET"), Value::Null);
    assert_eq!(put(&server, "small"), 200, "what fits is taken");
    assert_eq!(fill(&server), 0, "one more value of 100 KB is not");
    assert_ne!(alarms(&server, "GET"), Value::Null);
    assert_eq!(put(&server, "small"), 429);
    assert!(taken > 0);
}

#[test]
fn history_leaves_by_itself_and_the_log_says_so() {
    let server = Server::start_with(|command| {
        command.args(["--auto-compaction-mode", "periodic", "--auto-compaction-retention", "1s"]);
    });
    for value in ["1", "2", "3"] {
        server.put("a", value);
    }
    let logged = |line: &str| server.process.output.wait_for(line, 0);
    assert!(logged("starting auto periodic compaction"));
    let completed =
        r#""msg":"completed auto periodic compaction","revision":4,"compact-period":"1s""#;
    assert!(logged(completed), "{}", server.process.output.text());
    let old = json!({"key": b64("a"), "revision": "3"});
    let (status, answer) = server.call("/v3/kv/range", &old);
    assert_eq!((status, answer["code"].as_i64()), (400, Some(11)));
    assert_eq!(server.get("a").as_deref(), Some("3"));
}
