"""Provoked faults of a running server.

Each scenario returns what it counted, and raises AssertionError on a lost request.
"""

import io
import resource
import signal
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
from PIL import Image

from loadtests.faults.stand import Load, Stand, body_of, open_stand

__all__ = ["SCENARIOS"]

Facts = dict[str, Any]
Scenario = Callable[[Path, Path], Facts]


def crash_of_the_server(package: Path, image: Path) -> Facts:
    """`kill -9` of `clearsight serve` under load, then a new one: it adopts what runs; nothing is lost."""
    with open_stand() as stand:
        stand.deploy(package)
        before = {process.pid for process in (*stand.processes("gateway"), *stand.processes("server"))}
        load = stand.load(body_of([image]))
        time.sleep(1)
        assert stand.server is not None
        stand.server.kill()
        stand.server.wait()
        time.sleep(1)
        stand.serve()
        time.sleep(2)
        after = {process.pid for process in (*stand.processes("gateway"), *stand.processes("server"))}
        assert before == after, "the processes must be kept"
        return _nothing_lost(load) | {"processes kept": len(after)}


def take_over(package: Path, image: Path) -> Facts:
    """`serve --take-over` under load: the running server hands over and exits with 0; nothing is lost."""
    with open_stand() as stand:
        stand.deploy(package)
        load = stand.load(body_of([image]))
        time.sleep(1)
        first = stand.server
        assert first is not None
        stand.serve("--take-over")
        code = first.wait(30)
        time.sleep(2)
        assert code == 0, f"the first server must exit with 0, but exited with {code}"
        return _nothing_lost(load)


def take_over_after_an_upgrade(package: Path, image: Path) -> Facts:
    """The same when the running processes are of another version: successors start beside them; nothing is lost."""
    with open_stand() as stand:
        stand.deploy(package)
        before = {process.pid for process in (*stand.processes("gateway"), *stand.processes("server"))}
        file = stand.folder / "workspace" / "endpoints" / "processes.json"
        load = stand.load(body_of([image]))
        time.sleep(1)
        assert stand.server is not None
        stand.server.kill()
        stand.server.wait()
        file.write_text(file.read_text().replace('"code_version": "', '"code_version": "older '))
        stand.serve("--take-over")
        time.sleep(2)
        after = {process.pid for process in (*stand.processes("gateway"), *stand.processes("server"))}
        assert not before & after, "all processes must be replaced"
        return _nothing_lost(load) | {"processes replaced": len(after)}


def killed_workers(package: Path, image: Path) -> Facts:
    """`kill -9` of one of two workers, 20 times, under load."""
    return _kill_workers(package, image, num_workers=2, num_kills=20)


def killed_only_worker(package: Path, image: Path) -> Facts:
    """`kill -9` of the only worker, 3 times, under load: requests wait for the next one within their time."""
    return _kill_workers(package, image, num_workers=1, num_kills=3)


def _kill_workers(package: Path, image: Path, num_workers: int, num_kills: int) -> Facts:
    with open_stand() as stand:
        stand.deploy(package, workers=num_workers)
        load = stand.load(body_of([image]), num_clients=4)
        for number in range(num_workers, num_workers + num_kills):
            stand.wait(lambda number=number: stand.num_loaded() >= number, f"{num_workers} workers must have loaded")
            time.sleep(1)
            stand.workers()[0].kill()
        return _nothing_lost(load) | {"kills": num_kills}


def killed_only_server(package: Path, image: Path) -> Facts:
    """`kill -9` of the only server process, 2 times, under load: what it had is answered by the next one.

    New requests are refused meanwhile, with the status that asks to try again.
    """
    with open_stand() as stand:
        stand.deploy(package)
        load = stand.load(body_of([image]), num_clients=4)
        _kill_servers(stand, 2)
        outcomes = load.stop()
        assert set(outcomes) <= {"200", "503"}, (dict(outcomes), load.texts)
        assert "DeploymentNotReady" in load.texts.get("503", "DeploymentNotReady"), load.texts
        return {"requests": outcomes["200"], "lost": 0, "refused with 503": outcomes["503"]}


def gateway_that_cannot_write(package: Path, image: Path) -> Facts:
    """The gateway cannot write its state file: the verb says what is stored, and takes effect when the gateway can."""
    with open_stand() as stand:
        stand.deploy(package)
        [gateway] = stand.processes("gateway")
        unlimited = gateway.rlimit(psutil.RLIMIT_FSIZE)
        gateway.rlimit(psutil.RLIMIT_FSIZE, (0, unlimited[1]))
        refused = stand.verb("online-endpoint", "regenerate-keys", "-n", "fridge", check=False)
        assert refused.returncode == 1, refused
        assert "is stored, but the gateway has not taken the change" in refused.stderr, refused.stderr
        old = stand.key
        assert set(_one_answer(stand.load(body_of([image]), 1))) == {"200"}, "the old key must work until then"
        query = ("-n", "fridge", "-o", "tsv", "--query", "primaryKey")
        stand.key = stand.verb("online-endpoint", "get-credentials", *query).stdout.strip()
        assert stand.key != old
        gateway.rlimit(psutil.RLIMIT_FSIZE, unlimited)
        took_s = stand.wait(
            lambda: set(_one_answer(stand.load(body_of([image]), 1))) == {"200"}, "the stored key must work"
        )
        stand.key = old
        assert set(_one_answer(stand.load(body_of([image]), 1))) == {"401"}
        return {"in force after s": round(took_s, 1)}


def killed_servers(package: Path, image: Path) -> Facts:
    """`kill -9` of one of the two server processes of two instances, 5 times, under load."""
    with open_stand() as stand:
        stand.deploy(package, instances=2)
        servers = [process.pid for process in stand.processes("server")]
        assert len(servers) == 2, servers
        load = stand.load(body_of([image]), num_clients=4)
        _kill_servers(stand, 5)
        return _nothing_lost(load) | {"kills": 5}


def stopped_gateway(package: Path, image: Path) -> Facts:
    """SIGSTOP of the gateway: it is replaced within seconds."""
    return _stopped(package, "gateway")


def stopped_server(package: Path, image: Path) -> Facts:
    """SIGSTOP of a deployment's only Java process: it is replaced; noticed within seconds."""
    return _stopped(package, "server")


def _stopped(package: Path, kind: str) -> Facts:
    with open_stand() as stand:
        stand.deploy(package)
        process = stand.processes(kind)[0]
        begin = stand.log.stat().st_size
        process.send_signal(signal.SIGSTOP)
        noticed = stand.wait(lambda: b"it hangs" in stand.log.read_bytes()[begin:], "it must be noticed", 30)
        back = stand.wait(lambda: b"serves again" in stand.log.read_bytes()[begin:], "it must be replaced")
        assert stand.is_up()
        return {"noticed after s": round(noticed, 1), "back after s": round(noticed + back, 1)}


def full_disk(package: Path, image: Path) -> Facts:
    """No byte can be written while gateway and Java are killed; once it can, everything comes back by itself."""
    with open_stand() as stand:
        stand.deploy(package)
        assert stand.server is not None
        unlimited = resource.prlimit(stand.server.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(stand.server.pid, resource.RLIMIT_FSIZE, (0, unlimited[1]))  # as with ENOSPC, writes fail
        for kind in ("server", "gateway"):
            stand.processes(kind)[0].kill()
        time.sleep(8)
        refused = stand.verb("online-endpoint", "regenerate-keys", "-n", "fridge", check=False)
        assert refused.returncode == 1, refused
        resource.prlimit(stand.server.pid, resource.RLIMIT_FSIZE, unlimited)
        took_s = stand.wait(stand.is_up, "the endpoint must come back")
        shown = stand.verb("online-endpoint", "get-credentials", "-n", "fridge", "-o", "tsv", "--query", "primaryKey")
        assert shown.stdout.strip() == stand.key, "the key must be the stored one"
        assert set(_one_answer(stand.load(body_of([image]), 1))) == {"200"}
        return {"back after s": round(took_s, 1), "verb meanwhile": refused.stderr.strip()[:120]}


def poisoned_requests(package: Path, image: Path) -> Facts:
    """Requests that are dear to decode, beside honest ones: no worker dies, and a false claim costs others nothing.

    100 rows of a JPEG of 4 KB that claims 9999 x 9999 pixels, then 12 rows that truly have them.
    """
    whole = io.BytesIO()
    Image.new("L", (9999, 9999)).save(whole, "JPEG")
    claim = whole.getvalue()[:4094] + b"\xff\xd9"
    with open_stand() as stand:
        stand.deploy(package, timeout_ms=5_000)
        workers = stand.workers()
        facts: Facts = {}
        for name, data, num_rows in (("claimed", claim, 100), ("whole", whole.getvalue(), 12)):
            file = stand.folder / "poison.jpg"
            file.write_bytes(data)
            honest, poison = stand.load(body_of([image])), stand.load(body_of([file] * num_rows), 1)
            time.sleep(15)
            facts |= {f"{name}, answers": dict(poison.stop()), f"{name}, others": dict(honest.stop())}
            facts[f"{name}, longest of others s"] = round(honest.longest_s, 2)
            assert "200" not in poison.outcomes, (dict(poison.outcomes), poison.texts)
            assert name == "whole" or set(honest.outcomes) == {"200"}, (dict(honest.outcomes), honest.texts)
        assert stand.workers() == workers, "no worker may die"
        assert set(_one_answer(stand.load(body_of([image]), 1))) == {"200"}
        return facts


def _one_answer(load: Load) -> Mapping[str, int]:
    while not load.outcomes:
        time.sleep(0.05)
    return load.stop()


def _kill_servers(stand: Stand, num_kills: int) -> None:
    """`kill -9` of the first server process, each time when the one before has come back."""
    for _ in range(num_kills):
        time.sleep(1)
        begin = stand.log.stat().st_size
        stand.processes("server")[0].kill()
        stand.wait(lambda begin=begin: b"serves again" in stand.log.read_bytes()[begin:], "it must come back")


def _nothing_lost(load: Load) -> Facts:
    outcomes = load.stop()
    assert set(outcomes) == {"200"}, (dict(outcomes), load.texts)
    return {"requests": outcomes["200"], "lost": 0, "longest s": round(load.longest_s, 2)}


SCENARIOS: Mapping[str, Scenario] = {
    function.__name__.replace("_", "-"): function
    for function in (
        crash_of_the_server,
        take_over,
        take_over_after_an_upgrade,
        killed_workers,
        killed_only_worker,
        killed_only_server,
        killed_servers,
        stopped_gateway,
        stopped_server,
        full_disk,
        gateway_that_cannot_write,
        poisoned_requests,
    )
}
"""Scenario by name: called with a package folder and an image."""
