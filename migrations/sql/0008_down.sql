-- Takes back 0008: the rights as 0001 gave them.
GRANT UPDATE ON note, timeline TO cs_app, cs_worker;
