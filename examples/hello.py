"""A first Modal program: a function, many calls of it at once, and a class that keeps what it loaded.

modal run examples/hello.py
modal run examples/hello.py --name you
"""

import socket
import time

import modal

app = modal.App("hello")


@app.function()
def square(number: int) -> int:
    print(f"squaring {number} in container {socket.gethostname()}")
    return number * number


@app.cls()
class Greeter:
    @modal.enter()
    def load(self) -> None:
        self.since = time.monotonic()  # a model would be loaded here, once per container

    @modal.method()
    def greet(self, name: str) -> str:
        return f"Hello {name}, from a container that has been up for {time.monotonic() - self.since:.3f} s"


@app.local_entrypoint()
def main(name: str = "world") -> None:
    print("one call:      ", square.remote(7))
    print("many at once:  ", list(square.map(range(10))))
    greeter = Greeter()
    print("a class:       ", greeter.greet.remote(name))
    print("and again:     ", greeter.greet.remote(name))
