-- What was said stays as it was said (least privilege; a reply or a correction is a new row).
REVOKE UPDATE ON note, timeline FROM cs_app, cs_worker;
