// The configuration with which OpenWorkflow's dashboard finds the test's database.
import { BackendPostgres } from "openworkflow/postgres";

export default {
  backend: await BackendPostgres.connect(process.env.OPENWORKFLOW_POSTGRES_URL, {
    namespaceId: process.env.OPENWORKFLOW_NAMESPACE_ID,
  }),
};
