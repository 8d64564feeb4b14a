"""Software in a container: recipes that set it up in compatible versions, and checks that it computes.

`apexgpu setup`, in the order of its work:

- recipe: reads the recipes (TOML)
- facts: finds out what the container has
- compatibility: chooses versions; planner: makes the plan from them
- setupscript: builds the script for the plan; setuprun: checks and runs it
- installers: compares the files that are installed from with known checksums

`apexgpu verify`:

- computetest: sends the programs, in the order of the checks
- computeoutput: reads what they print
- filechecks: judges what was found before anything is run; verification: judges the runs
- causes: finds the cause of a failure; checks: the names of checks and causes
"""
