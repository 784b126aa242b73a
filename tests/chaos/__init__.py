"""A campaign of faults against a platform with real containers: whatever is killed, nothing that was accepted is lost.

schedule   seed → events; a pure function, so that a seed replays them
program    the deployed app: functions of all kinds, by the stock client's API alone
clients    one process for each kind of work; they survive everything and write down what they asked for and got
disk       a file system of its own for the state: it can be filled, frozen, and lose its power
clock      an offset of the machine's clock for the processes of one platform
target     the platform: up, its processes, their end
faults     events, done to a target
verdict    journals and fault windows → what was lost, doubled, wrong or hung; pure
traces     what a platform has on a machine, to be counted before and after
campaign   all of it, in order
leaks      no faults, but thousands of containers one after the other, and what they leave behind

python -m tests.chaos --seed 1 [--kills 200] [--minutes 40]
python -m tests.chaos.leaks [--containers 2000] [--ordinary]
"""
