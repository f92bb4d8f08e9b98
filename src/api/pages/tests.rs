use super::*;
use crate::api::tests::double::World;
use crate::engine::Error;

fn page(world: &mut World, path: &str, query: &str) -> Option<(u16, String)> {
    world.page(path, query).map(|page| (page.status, page.body))
}

fn ok(body: &str) -> Option<(u16, String)> {
    Some((200, body.to_owned()))
}

fn failed(body: &str) -> Option<(u16, String)> {
    Some((503, body.to_owned()))
}

/// The bodies are those of etcd 3.7.3, save for the order of the checks, which changes there with
/// every start.
#[test]
fn a_member_that_serves_is_healthy_alive_and_ready() {
    let mut world = World::new();
    let world = &mut world;
    assert_eq!(page(world, "/health", ""), ok(r#"{"health":"true","reason":""}"#));
    assert_eq!(page(world, "/livez", ""), ok("ok\n"));
    assert_eq!(page(world, "/livez", "verbose"), ok("[+]serializable_read ok\nok\n"));
    assert_eq!(page(world, "/readyz", ""), ok("ok\n"));
    let all = "[+]data_corruption ok\n[+]serializable_read ok\n[+]linearizable_read ok\n\
               [+]non_learner ok\nok\n";
    assert_eq!(page(world, "/readyz", "verbose=1"), ok(all));
    let some = "[+]data_corruption ok\n[+]non_learner ok\nok\n";
    let query = "exclude=serializable_read&verbose&exclude=linearizable%5Fread&exclude=nothing";
    assert_eq!(page(world, "/readyz", query), ok(some));
    assert_eq!(page(world, "/readyz/non_learner", "verbose"), ok("[+]non_learner ok\nok\n"));
    let version = r#"{"etcdserver":"3.7.3","etcdcluster":"3.7.0","storage":"3.7.0"}"#;
    assert_eq!(page(world, "/version", ""), ok(version));
    assert_eq!(world.page("/version", "").map(|page| page.content_type), Some("application/json"));
    assert_eq!(world.page("/health", "").map(|page| page.content_type), Some(TEXT));
}

#[test]
fn other_paths_are_no_pages() {
    let mut world = World::new();
    for path in [
        "",
        "/",
        "health",
        "/health/",
        "/livez/",
        "/livez/non_learner",
        "/readyz/zz",
        "/readyz//",
        "/readyz/non_learner/",
        "/metrics",
        "/versions",
        "/v3/kv/range",
    ] {
        assert_eq!(page(&mut world, path, ""), None, "{path:?}");
    }
}

#[test]
fn without_a_leader_the_pages_say_what_fails() {
    let mut world = World::new();
    world.model.serves = false;
    world.model.refuses = Some(Error::NoLeader);
    let world = &mut world;
    let reason = "{\"health\":\"false\",\"reason\":\"RAFT NO LEADER\"}\n";
    assert_eq!(page(world, "/health", ""), failed(reason));
    let reason = "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: no leader\"}\n";
    assert_eq!(page(world, "/health", "serializable=true"), failed(reason));
    let lines = "[-]serializable_read failed: etcdserver: no leader\n\n";
    assert_eq!(page(world, "/livez", ""), failed(lines));
    let lines = "[+]data_corruption ok\n[-]linearizable_read failed: etcdserver: no leader\n\
                 [+]non_learner ok\n\n";
    assert_eq!(page(world, "/readyz", "exclude=serializable_read"), failed(lines));
    assert_eq!(page(world, "/readyz/data_corruption", ""), ok("ok\n"));
}

#[test]
fn alarms_make_a_member_unhealthy_and_damage_makes_it_not_ready() {
    let mut world = World::new();
    let world = &mut world;
    world.model.alarms.set(1, 5, true);
    let no_space = "{\"health\":\"false\",\"reason\":\"ALARM NOSPACE\"}\n";
    assert_eq!(page(world, "/health", ""), failed(no_space));
    let healthy = ok(r#"{"health":"true","reason":""}"#);
    assert_eq!(page(world, "/health", "exclude=NOSPACE"), healthy);
    assert_eq!(page(world, "/readyz", ""), ok("ok\n"));
    world.model.alarms.set(2, 5, true);
    world.model.alarms.set(7, 5, true);
    let corrupt = "{\"health\":\"false\",\"reason\":\"ALARM CORRUPT\"}\n";
    assert_eq!(page(world, "/health", "exclude=NOSPACE"), failed(corrupt));
    let unknown = "{\"health\":\"false\",\"reason\":\"ALARM UNKNOWN\"}\n";
    assert_eq!(page(world, "/health", "exclude=NOSPACE&exclude=CORRUPT"), failed(unknown));
    assert_eq!(page(world, "/health", "exclude=NOSPACE&exclude=CORRUPT&exclude=7"), healthy);
    let lines = "[-]data_corruption failed: alarm activated: CORRUPT\n\
                 [+]serializable_read ok\n[+]linearizable_read ok\n[+]non_learner ok\n\n";
    assert_eq!(page(world, "/readyz", ""), failed(lines));
    assert_eq!(page(world, "/livez", ""), ok("ok\n"));
    let counted = |counts: &metrics::Checked| (counts.success.get(), counts.error.get());
    assert_eq!(counted(&world.api.metrics.health), (2, 3));
    let checks: Vec<_> = world.api.metrics.checks.iter().map(counted).collect();
    assert_eq!(checks, [(1, 0), (1, 1), (2, 0), (2, 0), (2, 0)]);
}

#[test]
fn a_read_that_fails_is_the_reason() {
    let mut world = World::new();
    world.door.close(Error::Stopped);
    let page = page(&mut world, "/health", "serializable=true");
    let reason = "{\"health\":\"false\",\"reason\":\"RANGE ERROR:etcdserver: server stopped\"}\n";
    assert_eq!(page, failed(reason));
}

#[test]
fn query_strings_are_read_as_go_reads_them() {
    let all = |query, name| values(query, name).collect::<Vec<_>>();
    assert_eq!(all("a=1&b=2&a=3&a", "a"), ["1", "3", ""]);
    assert_eq!(all("x=a+b%20c%2B", "x"), ["a b c+"]);
    assert_eq!(all("%78=1&x=%zz&x=%4&x=%+1&x=2", "x"), ["1", "2"]);
    assert_eq!(all("", "x"), Vec::<String>::new());
    assert_eq!(all("x=%ff", "x"), Vec::<String>::new());
}
