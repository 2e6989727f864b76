"""A way to a server on loopback that can be cut, and laid again."""

import contextlib
import socket
import threading


class Wire:
    """A way to a server on loopback that can be cut, and laid again."""

    def __init__(self, port: int):
        self.behind, self.port = port, 0
        self.lay()

    def lay(self) -> None:
        self.open: list[socket.socket] = []
        self.door = socket.create_server(("127.0.0.1", self.port))
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self._let_in, args=(self.door,), daemon=True).start()

    def cut(self) -> None:
        self.door.shutdown(socket.SHUT_RDWR)
        self.door.close()
        for end in self.open:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def _let_in(self, door: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                ours = door.accept()[0]
                theirs = socket.create_connection(("127.0.0.1", self.behind))
                self.open += [ours, theirs]
                for pair in ((ours, theirs), (theirs, ours)):
                    threading.Thread(target=self._pass_on, args=pair, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := source.recv(65536):
                target.sendall(content)
            target.shutdown(socket.SHUT_RDWR)
