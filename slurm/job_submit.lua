-- An interactive job that names no GPU gets one: who opens a session on such a cluster wants to try something on it.
-- Installed and used where slurm_job_submit is true and nodes have GPUs.

function slurm_job_submit(job, partitions, uid)
   local asked = job.tres_per_job or job.tres_per_node or job.tres_per_socket or job.tres_per_task
   if job.partition == "interactive" and not asked then
      job.tres_per_node = "gres/gpu:1"
   end
   return slurm.SUCCESS
end

-- the plugin wants this one, too
function slurm_job_modify(job, record, partitions, uid)
   return slurm.SUCCESS
end
