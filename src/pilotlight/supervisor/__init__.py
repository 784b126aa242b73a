"""Starting, watching and holding sockets, nothing else: whatever decides or serves may die and come back, this does not.

    pilotlight up ──► start.bring_up ──► watch.Supervisor ──► child.Child ×3 (server, edge, node)
    pilotlight down ► stop.bring_down ─┘

Its imports stay lean: a platform that has run before is ready within 3 s, and this process lives as long as the platform does.
"""
