"""What the processes of a gateway stand on, whatever they do: the event loop, child processes, privileges, the control
socket, the pidfile, the service manager.
"""
