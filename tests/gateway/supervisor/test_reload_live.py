"""`nfqlb reload` as an administrator calls it, with the real engine, rules and configuration."""

import json
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import standin
from livegateway import Gateway
from livehost import CONFIG, NFQLB, Host, request
from livenet import Net, until

from nfqlb.gateway.runtime.control_socket import ask
from nfqlb.gateway.worker.nfqueue import Queue
from nfqlb.lab import namespaces

pytestmark = pytest.mark.root

MORE_BACKENDS = CONFIG.replace(
    'name = "reg4"\naddress = "10.9.0.2:5060"\n',
    'name = "reg4"\naddress = "10.9.0.2:5060"\n[[pool.backend]]\nname = "new4"\naddress = "10.9.0.3:5060"\n',
)
PORT = 'external = "198.51.100.1:5060"\ninternal = "10.9.0.1:5060"'


@pytest.fixture
def host(net: Net) -> Host:
    return Host(net)


@pytest.fixture
def gateway(host: Host) -> Gateway:
    return Gateway(host)


# Each is a change of the original, and comes after the one before it.
CHANGES: dict[str, tuple[Callable[[str], str], list[str]]] = {
    "backend added": (lambda _: MORE_BACKENDS, ["pool all4: backend new4: added (address 10.9.0.3:5060)"]),
    "backend moved": (
        lambda text: text.replace("10.9.0.2:5060", "10.9.0.2:5070"),
        ["10.9.0.2:5060 → 10.9.0.2:5070", "removed backends finish what they have begun: reg4"],
    ),
    "weight": (
        lambda text: text.replace('"10.9.0.2:5060"\n', '"10.9.0.2:5060"\nweight = 3\n'),
        ["pool all4: backend reg4: weight: 1 → 3"],
    ),
    "pool": (lambda text: text.replace('"all4"\n', '"all4"\nhash_on = "from-uri"\n', 1), ["pool all4: hash_on"]),
    "route": (
        lambda text: text.replace('listeners = ["four"]', 'listeners = ["four"]\nmethods = ["REGISTER"]'),
        ["route[0].methods"],
    ),
    "path": (lambda text: text + '\n[path]\npolicy = "if-supported"\n', ["path.policy"]),
    "name": (lambda text: text.replace("[gateway]", '[gateway]\nname = "gw"'), ["gateway.name: lb → gw"]),
    "one worker": (lambda text: text.replace("count = 2", "count = 1"), ["workers.count: 2 → 1"]),
    "three workers": (lambda text: text.replace("count = 2", "count = 3"), ["workers.count: 1 → 3"]),
    "queue": (lambda text: text.replace("queue = 300", "queue = 340"), ["workers.queue: 300 → 340"]),
    "queue length": (lambda text: text.replace("[workers]", "[workers]\nqueue_length = 512"), ["workers.queue_length"]),
    "socket buffer": (lambda text: text.replace("[workers]", '[workers]\nsocket_buffer = "1 MiB"'), ["socket_buffer"]),
    "rules": (lambda text: text + "\n[rules]\nforward = false\n", ["rules.forward: true → false"]),
    "listener removed": (
        lambda text: (
            text.replace(PORT, "@").partition('[[listener]]\nname = "six"')[0].replace("@", PORT)
            + '[[pool]]\nname = "all4"\n[[pool.backend]]\nname = "reg4"\naddress = "10.9.0.2:5060"\n'
            + '[[route]]\npool = "all4"\n'
        ),
        ["listener six: removed", "pool all6: removed", "route[0] of before: removed (on four: pool all4)"],
    ),
}


def test_a_reload_puts_each_change_in_force(gateway: Gateway) -> None:
    original = gateway.host.config.read_text()
    for change, (edit, lines) in CHANGES.items():
        before, generation = gateway.workers(), gateway.status()["generation"]
        text = edit(original)
        gateway.host.config.write_text(text.format(run_dir=gateway.net.run_dir, workers=2, queue=standin.QUEUE))
        told = gateway.reload().stdout
        for line in lines:
            assert line in told, (change, told)
        workers = gateway.workers()
        assert not set(workers) & set(before), change
        assert until(lambda workers=workers: gateway.settled(len(workers))), change
        status = gateway.status()
        assert (status["generation"], status["changing"]) == (generation + 1, ""), change
        assert [*gateway.net.queues()] == status["queues"], change
        assert gateway.led_to() == set(status["queues"]), change
        if change not in ("backend moved", "backend added"):
            assert gateway.serves(), change
    assert "0123456789abcdef" not in gateway.net.log
    gateway.stop()


def test_a_listener_that_moves_is_served_at_its_new_place_only(gateway: Gateway) -> None:
    gateway.host.write(CONFIG.replace(PORT, PORT.replace("5060", "5070")))
    assert "listener four: external: 198.51.100.1:5060 → 198.51.100.1:5070" in gateway.reload().stdout
    phone, farm = gateway.net.udp(gateway.net.phone, 4), gateway.net.receiver(4)
    phone.connect(("198.51.100.1", 5070))
    phone.send(request(phone, "moved"))
    assert farm.recv(65535).startswith(b"REGISTER ")
    gateway.stop()


def test_keys_are_rotated_and_never_shown(gateway: Gateway) -> None:
    secret = gateway.net.folder / "secret"
    secret.write_text("fedcba9876543210fedcba9876543210\n0123456789abcdef0123456789abcdef\n")
    told = gateway.reload().stdout
    assert "secret: 1 keys added, 0 removed" in told
    assert "secret: another key signs from now on" in told
    assert "fedcba" not in told + gateway.net.log
    assert gateway.serves()
    gateway.stop()


def test_what_was_in_force_before_is_no_longer_in_memory(gateway: Gateway) -> None:
    """Also while backends that a reload removed are still remembered. Each plan has shared memory for its tables."""

    def shared() -> int:
        pid = gateway.status()["pid"]
        return namespaces.inside(gateway.net.gateway, lambda: Path(f"/proc/{pid}/maps").read_text().count("/dev/zero"))

    found = []
    for text in (MORE_BACKENDS, CONFIG) * 3:
        gateway.host.write(text)
        gateway.change("reload")
        assert until(gateway.settled)
        found.append(shared())
    assert gateway.status()["leaving"] == 1
    assert found[0] > 0
    assert len(set(found[1::2])) == 1, found
    gateway.stop()


# -- nothing has changed


def same_meaning(gateway: Gateway) -> None:
    """Other words, another order of keys, comments, and defaults that are spelled out."""
    text = gateway.host.config.read_text()
    text = text.replace(
        'name = "reg4"\naddress = "10.9.0.2:5060"', 'address = "10.9.0.2"  # 5060\nname = "reg4"\nweight = 1'
    )
    text = text.replace("[workers]\n", "# as ever\n[workers]\npin = true\n")
    health = "[health]\nenabled = false\n"
    gateway.host.config.write_text(text.replace(health, "") + "\n" + health + '[path]\npolicy = "always"\n')


def same_keys(gateway: Gateway) -> None:
    (gateway.net.folder / "secret").write_text("# what signs\n\n0123456789abcdef0123456789abcdef\n")


def test_a_reload_of_what_runs_already_does_nothing_and_says_so(gateway: Gateway) -> None:
    assert gateway.serves()
    before = gateway.picture()
    counted = [slot.reasons for slot in gateway.net.board().slots]
    for spell in (lambda _: None, same_meaning, same_keys):
        spell(gateway)
        assert gateway.reload().stdout.startswith("nothing has changed: everything goes on as it was\n")
        answer = json.loads(gateway.reload("--json").stdout)
        assert (answer["ok"], answer["changed"], answer["generation"]) == (True, False, before["generation"])
        assert all(line.startswith("warning: ") for line in answer["changes"])
        assert gateway.picture() == before
        assert [slot.reasons for slot in gateway.net.board().slots] == counted
    gateway.process.send_signal(signal.SIGHUP)
    assert until(lambda: gateway.net.log.count("reload: nothing has changed; everything goes on as it was") == 7)
    assert gateway.picture() == before
    gateway.stop()


def test_force_replaces_the_workers_all_the_same(gateway: Gateway) -> None:
    before, generation = gateway.workers(), gateway.status()["generation"]
    assert gateway.reload("--force").stdout.startswith("nothing has changed: the workers are replaced\n")
    assert not set(gateway.workers()) & set(before)
    assert gateway.status()["generation"] == generation + 1
    assert until(gateway.settled)
    assert gateway.serves()
    answer = json.loads(gateway.reload("--force", "--json").stdout)
    assert (answer["ok"], answer["changed"], answer["generation"]) == (True, False, generation + 2)
    gateway.stop()


def test_backends_that_a_reload_removed_stay_for_their_time_over_one_that_changes_nothing(gateway: Gateway) -> None:
    gateway.host.write(CONFIG.replace("10.9.0.2:5060", "10.9.0.2:5070"))
    assert json.loads(gateway.reload("--json").stdout)["changed"] is True
    answer = json.loads(gateway.reload("--json").stdout)
    assert (answer["changed"], answer["leaving"]) == (False, 1)
    gateway.stop()


@pytest.mark.parametrize("changes", [False, True])
def test_rules_that_somebody_else_has_changed_are_warned_of(gateway: Gateway, changes: bool) -> None:
    """They stay as they are: who put them in place puts them right."""
    namespaces.run(gateway.net.gateway, ["iptables", "-t", "raw", "-F", "PREROUTING"])
    namespaces.sysctl(gateway.net.gateway, {"net/ipv4/conf/in/forwarding": "0"})
    before = gateway.rules()
    if changes:
        gateway.host.write(CONFIG.replace('"10.9.0.2:5060"\n', '"10.9.0.2:5060"\nweight = 3\n'))
    answer = json.loads(gateway.reload("--json").stdout)
    assert answer["changed"] is changes
    told = "\n".join(answer["changes"])
    assert "warning: THE RULES ARE NOT IN PLACE" in told
    assert "-A PREROUTING -j NFQLB-IN" in told
    assert "net/ipv4/conf/in/forwarding" in told
    assert gateway.rules() == before
    assert gateway.host.call("rules", "apply").returncode == 0
    assert "RULES" not in gateway.reload("--force").stdout
    namespaces.run(gateway.net.gateway, ["iptables", "-t", "raw", "-F", "PREROUTING"])
    gateway.host.write(CONFIG.replace('"10.9.0.2:5060"\n', '"10.9.0.2:5060"\nweight = 3\n'), workers=1)
    assert "RULES" not in gateway.reload().stdout, "a change that needs other rules puts all of them in place"
    assert gateway.host.call("rules", "diff").returncode == 0
    gateway.stop()


# -- refused

HELD = 65534
"""The first queue of the last range that there is."""
HOLDERS: list[Queue] = []


@pytest.fixture(autouse=True)
def let_go() -> Iterator[None]:
    yield
    while HOLDERS:
        HOLDERS.pop().close()


def wrong_everywhere(gateway: Gateway) -> list[str]:
    gateway.host.write(CONFIG.replace("[workers]", "[worker]").replace("10.9.0.2:5060", "10.9.0.2:0"))
    return ['did you mean "workers"?', "10.9.0.2:0"]


def no_file(gateway: Gateway) -> list[str]:
    """The command then looks where a gateway runs by default, unless the client says where."""
    gateway.host.config.unlink()
    return ["there is no such file"]


def no_secret(gateway: Gateway) -> list[str]:
    (gateway.net.folder / "secret").unlink()
    return ["secret"]


def short_secret(gateway: Gateway) -> list[str]:
    (gateway.net.folder / "secret").write_text("short\n")
    return ["secret"]


def address_of_nobody(gateway: Gateway) -> list[str]:
    gateway.host.write(CONFIG.replace("198.51.100.1:5060", "198.51.100.99:5060"))
    return ["198.51.100.99"]


def other_run_dir(gateway: Gateway) -> list[str]:
    gateway.host.write(CONFIG.replace("{run_dir}", "{run_dir}2"))
    return ["run_dir cannot change while the gateway runs"]


def no_queue_free(gateway: Gateway) -> list[str]:
    gateway.host.write(CONFIG.replace("[workers]", "[workers]\nqueue_length = 99").replace("{queue}", str(HELD)))
    namespaces.inside(gateway.net.gateway, lambda: HOLDERS.append(Queue(HELD, length=1, socket_buffer=4096)))
    return [f"Queue {HELD} is held by"]


SPOILS = [wrong_everywhere, no_file, no_secret, short_secret, address_of_nobody, other_run_dir, no_queue_free]


def test_a_refused_reload_changes_nothing(gateway: Gateway) -> None:
    before, text = gateway.picture(), gateway.host.config.read_text()
    for spoil in SPOILS:
        expected = spoil(gateway)
        answer = ask(gateway.net.run_dir, {"do": "reload"}, timeout=20)
        assert answer["ok"] is False, spoil
        told = "\n".join(answer["errors"])
        for line in expected:
            assert line in told, spoil
        after = gateway.picture()
        after["queues"] = [number for number in gateway.net.queues() if number < HELD]
        assert after == before, spoil
        gateway.host.config.write_text(text)
        gateway.host.write_secret()
    assert gateway.serves()
    gateway.reload()  # and the next one works
    assert until(gateway.settled)


def test_a_refused_reload_lists_all_mistakes_on_the_command_line(gateway: Gateway) -> None:
    before = gateway.picture()
    expected = wrong_everywhere(gateway)
    done = gateway.reload(ok=False)
    assert done.stdout == ""
    assert done.stderr.startswith("Error: Refused, the old configuration goes on:\n")
    for line in expected:
        assert line in done.stderr
    as_json = gateway.host.call("reload", "--json")
    assert as_json.returncode == 1
    assert json.loads(as_json.stdout)["ok"] is False
    assert gateway.picture() == before
    gateway.stop()


# -- who asks, and how


def test_a_hangup_reloads_and_many_at_once_reload_no_more_than_twice(gateway: Gateway) -> None:
    gateway.host.write(MORE_BACKENDS)
    generation = gateway.status()["generation"]
    for _ in range(30):
        gateway.process.send_signal(signal.SIGHUP)
        time.sleep(0.01)
    assert until(lambda: "new4: added" in gateway.net.log, 10)
    assert until(lambda: gateway.status()["changing"] == "", 10)
    assert generation < gateway.status()["generation"] <= generation + 3
    gateway.stop()


def test_reloads_at_once_follow_one_another(gateway: Gateway) -> None:
    inside = ["ip", "netns", "exec", gateway.net.gateway]
    command = [*inside, *NFQLB, "reload", "--force", "--json", "-c", str(gateway.host.config)]
    asked = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(3)]
    answers = [json.loads(each.communicate(timeout=30)[0]) for each in asked]
    assert [answer["ok"] for answer in answers] == [True] * 3
    assert sorted(answer["generation"] for answer in answers) == [2, 3, 4]
    assert until(gateway.settled)
    gateway.stop()


def test_a_client_that_leaves_does_not_end_its_reload(gateway: Gateway) -> None:
    gateway.host.write(MORE_BACKENDS)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(str(gateway.net.run_dir / "control"))
        client.sendall(b'{"do": "reload"}\n')
    assert until(lambda: "new4: added" in gateway.net.log, 10)
    assert until(gateway.settled)
    gateway.stop()


def test_another_configuration_than_the_running_one_is_told(gateway: Gateway) -> None:
    other = gateway.host.config.with_name("other.toml")
    other.write_text(gateway.host.config.read_text())
    command = ["ip", "netns", "exec", gateway.net.gateway, *NFQLB, "reload", "-c", str(other)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert done.returncode == 1
    assert f"runs with {gateway.host.config}, not with {other}" in done.stderr
