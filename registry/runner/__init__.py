"""What is still to do, and doing it: in this process, in several on this machine, or on a Ray cluster."""
