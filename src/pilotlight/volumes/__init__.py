"""Files of volumes: plain directories, and how the platform reads and changes them beside the containers that do so too.

Whatever lies in a volume was made by programs that nobody trusts, and may change at any moment. So every access walks from the
volume's root by directory descriptors, follows no link, opens nothing but regular files and directories, and never waits for a
pipe.
"""
