"""The work items' demo: PostgreSQL to LanceDB, with vectors made from the items' own words."""
