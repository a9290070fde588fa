"""The fork server is known from its first moment, so that giving it back ends it for certain."""

import subprocess
import sys

_BORROWED_AND_GIVEN_BACK = """
import os, time
if __name__ == "__main__":
    dead = os.fork()
    if not dead:
        os._exit(0)
    time.sleep(0.1)  # a zombie now, which has no command line

    from service.engines.vllm_process import ForkServer

    for _ in range(5):
        server = ForkServer()
        server.borrow()
        process = server._process
        assert process is not None, "the server that was just begun is not known"
        server.give_back()
        assert not process.is_running() or process.status() == "zombie", "it still runs"
"""


def test_a_fork_server_is_ended_also_beside_a_zombie(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(_BORROWED_AND_GIVEN_BACK)

    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
