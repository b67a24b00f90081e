"""Two machines: network namespaces of this one, with a cable (veth) between them that can be unplugged.

Needs no root where the kernel lets users have namespaces. They are gone with the processes that hold them.
"""

import subprocess

SUBNET = "10.77.0"


class Machines:
    """Use as a context manager. Raises CalledProcessError or OSError where namespaces are not allowed."""

    addresses = (f"{SUBNET}.1", f"{SUBNET}.2")

    def __enter__(self):
        self._holders = []
        try:
            self._hold(["unshare", "--user", "--map-root-user", "--net"])
            self._hold([*self.inside(0), "unshare", "--net"])
            first, second = (holder.pid for holder in self._holders)
            self.run(0, "ip", "link", "add", "cable0", "type", "veth", "peer", "name", "cable1", "netns", str(second))
            for number, address in enumerate(self.addresses):
                self.run(number, "ip", "link", "set", "lo", "up")
                self.run(number, "ip", "addr", "add", f"{address}/24", "dev", f"cable{number}")
                self.plug(number)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        for holder in self._holders:
            holder.kill()
            holder.wait()

    def inside(self, number):
        """The words before a command that run it on this machine."""
        return ["nsenter", f"--target={self._holders[number].pid}", "--user", "--net", "--preserve-credentials"]

    def run(self, number, *words):
        """Runs a command on a machine, to its end."""
        subprocess.run([*self.inside(number), *words], check=True, capture_output=True)

    def plug(self, number):
        """Connects a machine."""
        self.run(number, "ip", "link", "set", f"cable{number}", "up")

    def unplug(self, number):
        """Cuts a machine off; nothing tells the other."""
        self.run(number, "ip", "link", "set", f"cable{number}", "down")

    def _hold(self, words):
        # The last program of the chain replaces those before it, and says when it is there.
        holder = subprocess.Popen([*words, "sh", "-c", "echo && exec sleep 3600"], stdout=subprocess.PIPE)
        self._holders.append(holder)
        if not holder.stdout.readline():
            raise OSError("no namespaces here")
