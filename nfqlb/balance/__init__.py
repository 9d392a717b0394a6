"""Which backend a new request goes to: route rules, pools, Maglev tables. Pure: the same input, the same choice."""
