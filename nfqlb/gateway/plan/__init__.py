"""What a gateway is to run: the plan, how it is made from a configuration, and how its tables are built."""
