-- The audit log.

-- name: last_audit_row
SELECT seq, hash
  FROM admin_audit_log
 ORDER BY seq DESC
 LIMIT 1;

-- name: append_audit_row
INSERT INTO admin_audit_log (
    seq, actor_id, action, target_type, target_id, details, ip, user_agent, correlation_id, token_id, created_at_us,
    previous_hash, hash)
VALUES (
    :seq, :actor_id, :action, :target_type, :target_id, :details, :ip, :user_agent, :correlation_id, :token_id, :now_us,
    :previous_hash, :hash);
