"""A sensor for the tutorial: sends the rows of a CSV file to the agent's socket, prints its answers.

    python feed.py --socket samples.sock --data test.csv --count 500 --rate 50

It begins again after the last row. `--invert` makes it a camera that shows white as black. Needs
nothing but Python.
"""

import argparse
import csv
import itertools
import socket
import threading
import time


def read(path):
    """The names of the features, and the values of each row as they are written."""
    with open(path, newline="", encoding="ascii") as file:
        rows = csv.reader(file)
        _, _, *features = next(rows)
        return features, [values for _, _, *values in rows]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True, help="`source.listen` of the agent")
    parser.add_argument("--data", required=True, help="CSV: recording, label, features")
    parser.add_argument("--count", type=int, default=500, help="rows to send")
    parser.add_argument("--rate", type=float, default=50, help="rows a second")
    parser.add_argument("--invert", action="store_true", help="send 16 - value")
    options = parser.parse_args()

    features, rows = read(options.data)
    agent = socket.socket(socket.AF_UNIX)
    agent.connect(options.socket)
    answers = threading.Thread(target=show, args=(agent.makefile("r"),))
    answers.start()
    with agent.makefile("w", buffering=1) as out:
        out.write(f"edgeward-source schema=1 dtype=f32 features={','.join(features)}\n")
        for sequence, values in enumerate(itertools.islice(itertools.cycle(rows), options.count)):
            if options.invert:
                values = [str(16 - int(value)) for value in values]
            out.write(f"{sequence},{int(time.time() * 1000)},{','.join(values)}\n")
            time.sleep(1 / options.rate)
    agent.shutdown(socket.SHUT_WR)
    answers.join()


def show(lines):
    """Prints what the agent says, until it hangs up."""
    for line in lines:
        print(line, end="", flush=True)


if __name__ == "__main__":
    main()
