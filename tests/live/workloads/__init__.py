"""Programs that are moved by the live tests and prove afterwards that nothing was lost.

The folder is copied to a node as it is and run there as ``python3 -S -B FOLDER KIND --dir DIR …`` (see ``__main__``);
standard library only, Python >= 3.9. ``driver`` is the test side and stays on the test machine.
"""
