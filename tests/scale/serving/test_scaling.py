"""Replicas follow the waiting tokens, up and down."""

from __future__ import annotations

import threading
from dataclasses import replace

import httpx
import pytest

from gritlm.scale.serving import Replicas
from gritlm.serve import Limits
from tests.scale.serving.conftest import KEY, Deployed
from tests.scale.serving.test_served import CHAT, chat, wait_for

pytestmark = pytest.mark.slow


def test_replicas_start_while_tokens_wait_and_end_when_none_do(proxy, settings):
    scaling = Replicas(1, 2, cpus=1, waiting_tokens=16, upscale_delay_s=0.5, downscale_delay_s=1)
    scaled = replace(settings, stores=(), limits=Limits(max_num_seqs=1), replicas=scaling)
    headers = {"Authorization": f"Bearer {KEY}"}
    statuses: set[int] = set()
    done = threading.Event()
    with httpx.Client(base_url=proxy, timeout=60, headers=headers) as http:
        deployed = Deployed(scaled, http)
        deployed.deploy(scaled)
        assert len(deployed.running()) == 1

        def ask(number: int) -> None:
            while not done.is_set():
                body = chat(f"Number {number}", max_tokens=64, ignore_eos=True)
                statuses.add(http.post(CHAT, json=body).status_code)

        clients = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for client in clients:
            client.start()
        try:
            wait_for(lambda: len(deployed.running()) == 2, 90)
        finally:
            done.set()
        for client in clients:
            client.join()
        assert statuses == {200}
        wait_for(lambda: len(deployed.running()) == 1, 90)
        assert http.post(CHAT, json=chat("After")).status_code == 200
