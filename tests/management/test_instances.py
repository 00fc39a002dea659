"""Deployments of several instances: two server processes, or none."""

import asyncio
from typing import Any

import pytest

from clearsight.errors import ServerUnavailable
from clearsight.serving.supervisor import fleet as fleet_module


async def test_a_second_process_that_does_not_fit_into_memory_is_refused_with_both_figures(
    server: Any, server_process: Any, blue: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_process, "memory_bytes", lambda self: 1_200_000_000)
    monkeypatch.setattr(fleet_module, "available_bytes", lambda: 900_000_000)
    red = {**blue, "name": "red", "instance_count": 2}
    with pytest.raises(ServerUnavailable, match=r"2 server processes .* takes 1200 MB and only 900 MB are left"):
        await server.service.create_deployment(red)
    assert [process.is_running for process in server.processes] == [True, True, False]  # blue, green; red's first
    assert server.stored()["fridge"]["deployments"]["red"]["state"] == "Failed"
    monkeypatch.setattr(fleet_module, "available_bytes", lambda: 1_300_000_000)
    await server.service.create_deployment(red)
    assert len(server.gateway.table.endpoints["fridge"].deployments["red"].upstreams) == 2


async def test_the_death_of_one_process_leaves_the_other_with_the_traffic(
    server: Any, server_process: Any, blue: dict[str, Any]
) -> None:
    await server.service.create_deployment({**blue, "name": "red", "instance_count": 2})
    first, second = server.processes[-2:]
    server_process.failure = OSError("no successor yet")
    try:
        first.end()
        async with asyncio.timeout(5):
            while len(server.gateway.table.endpoints["fridge"].deployments["red"].upstreams) == 2:
                await asyncio.sleep(0.001)
        [left] = server.gateway.table.endpoints["fridge"].deployments["red"].upstreams
        assert left.socket == second.folder.inference_socket
    finally:
        server_process.failure = None
