"""Every setting, its default and its meaning; `.env.example` and `deploy/SETTINGS.md` are generated from here.

Only composition roots read it. It knows nothing about what the values are used for.
"""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from service.contract.errors import ConfigurationError

STARTER = Path(__file__).parents[2] / "deploy" / "starter" / "sft"
_MOST_SECRETS = 2
_SHORTEST_SECRET = 16


class Timeouts(BaseModel):
    """Every wait of the service, in seconds. Nothing waits without one of these."""

    recommend_s: float | None = Field(
        None, gt=0, description="Deadline of /recommend; empty means 0.3 on a GPU and 2 on a CPU."
    )
    recommend_max_s: float = Field(10, gt=0, description="Largest deadline that a request may ask for.")
    record_s: float = Field(2, gt=0, description="Longest wait for the commit of an impression.")
    click_s: float = Field(5, gt=0, description="Longest wait for the commit of a click before 503.")
    database_connect_s: float = Field(3, gt=0, description="Opening a database connection.")
    database_statement_s: float = Field(5, gt=0, description="One database statement.")
    migration_lock_s: float = Field(60, gt=0, description="Waiting for another process to finish migrating.")
    engine_start_s: float = Field(180, gt=0, description="Loading the model and warming it up.")
    engine_http_s: float = Field(60, gt=0, description="One answer of an engine that is asked over HTTP.")
    engine_canary_s: float = Field(4, gt=0, description="A one-token generation that proves the engine is alive.")
    engine_canary_every_s: float = Field(2, gt=0, description="Pause between two such proofs.")
    engine_restart_pause_s: float = Field(0.5, gt=0, description="Pause before a dead engine is started again.")
    request_head_s: float = Field(10, gt=0, description="Receiving the headers of a request.")
    request_body_s: float = Field(10, gt=0, description="Receiving the body of a request.")
    shutdown_s: float = Field(8, gt=0, description="Finishing requests in flight after SIGTERM.")
    cor_s: float = Field(
        0.15, gt=0, description="Longest wait for co-occurrence queries, a quarter of the deadline at most."
    )
    cor_refresh_s: float = Field(5, gt=0, description="Pause between two looks for a newer co-occurrence build.")
    ctr_s: float = Field(
        0.2, gt=0, description="Longest wait for click probabilities, a quarter of the deadline at most."
    )
    ctr_open_s: float = Field(60, gt=0, description="Opening a click predictor, a first list scored included.")
    ctr_refresh_s: float = Field(5, gt=0, description="Pause between two looks for a newer click predictor.")
    policy_refresh_s: float = Field(3, gt=0, description="Pause between two looks for a newer policy.")
    experiments_refresh_s: float = Field(
        2, gt=0, description="Pause between two looks at the experiment file, and at what others started."
    )
    redis_s: float = Field(
        0.03, gt=0, description="One round trip to Redis; after a miss it is not asked for a second."
    )
    redis_write_s: float = Field(30, gt=0, description="One batch of a build that is written to Redis.")
    popular_refresh_s: float = Field(60, gt=0, description="Pause between two readings of the popular queries.")
    job_stage_s: float = Field(21_600, gt=0, description="One sub-process of a job.")
    job_heartbeat_s: float = Field(2, gt=0, description="Pause between two signs of life of a job.")
    judge_s: float = Field(60, gt=0, description="One answer of a judge that is asked over HTTP.")


class Jobs(BaseModel):
    """What the nightly run does, and what a challenger must reach. The service does not read it."""

    tasks: list[str] = Field(
        default_factory=lambda: ["suggest"], description="Tasks that are learnt every night, as a JSON list."
    )
    days: int = Field(14, ge=3, description="Days that the click predictor learns from, which searches.")
    later_days: int = Field(
        7,
        ge=4,
        description="Days after them, half as many at most: the predictor that judges learns from them, prompts are "
        "taken from them, and the last one is measured on.",
    )
    align: Literal["iter_dpo", "token_ppo", "both", "none"] = Field("iter_dpo", description="How policies are aligned.")
    prompts: int = Field(300, ge=1, description="Prompts of one round of alignment.")
    max_rounds: int = Field(1, ge=1, description="Most rounds of alignment a night.")
    options: dict[str, list[str]] = Field(
        default_factory=dict,
        description='More words for the commands of a stage, as JSON: {"ctr-train": ["--size", "medium"]}.',
    )
    command: list[str] = Field(
        default_factory=list, description="Words that start nextquery, as a JSON list; [] means this installation."
    )
    auc_drop: float = Field(0.005, ge=0, description="By so much the AUC may lie below the champion's.")
    pcoc_least: float = Field(0.8, gt=0, description="Least predicted clicks over real ones.")
    pcoc_most: float = Field(1.25, gt=0, description="Most predicted clicks over real ones.")
    ece_most: float = Field(0.05, gt=0, description="Largest expected calibration error.")
    cor_drop: float = Field(0.02, ge=0, description="By so much coverage and hit@10 may lie below the champion's.")
    parse_failures_most: float = Field(0.02, ge=0, description="Largest share of lists that cannot be read.")
    duplicates_most: float = Field(0.01, ge=0, description="Largest share of queries that a list has already.")
    length_least: float = Field(0.9, gt=0, description="Shortest lists, against those of the policy before.")
    length_most: float = Field(1.1, gt=0, description="Longest lists, against those of the policy before.")
    policy_share: float = Field(
        0.0,
        ge=0,
        le=1,
        description="Share of people on whom a policy that passed its gates is tried before it may be champion, half of "
        "them with the champion; 0 makes it champion at once.",
    )
    policy_days: int = Field(14, ge=1, description="Days after which a policy that has not won is dropped.")
    latency_most: float = Field(
        1.5,
        gt=0,
        description="Slowest lists, against the champion's, 95th percentile; an adapter alone costs a third on a CPU.",
    )

    @model_validator(mode="after")
    def _days_fit_together(self) -> Self:
        if 2 * self.later_days > self.days:
            raise ValueError(
                f"later_days ({self.later_days}) is more than half of days ({self.days}). Raise the second, or lower "
                "the first."
            )
        return self


class Settings(BaseSettings):
    """All settings. Environment variables have the prefix NEXTQUERY_; nested names are joined by two underscores."""

    model_config = SettingsConfigDict(
        env_prefix="NEXTQUERY_",
        env_nested_delimiter="__",
        env_file=".env",
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    data_dir: Path = Field(Path(".data"), description="Where the database, the secrets and the artefacts are kept.")
    database_url: str | None = Field(
        None,
        description="postgresql+psycopg://user:password@host/name or sqlite+aiosqlite:///path; "
        "empty means SQLite in the data directory.",
    )
    host: str = Field("127.0.0.1", description="Address to listen on; loopback unless told otherwise.")
    port: int = Field(8080, ge=0, le=65535, description="Port to listen on; 0 picks a free one.")
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field("INFO", description="Least level that is logged.")

    engine: Literal["auto", "vllm_local", "transformers_local", "openai_http", "scripted", "off"] = Field(
        "auto",
        description="Generation engine; auto means vLLM where it is installed, else transformers; openai_http is a server "
        "elsewhere.",
    )
    engine_url: str | None = Field(
        None,
        description="Where openai_http asks: the completions API of vLLM or another server, as in http://127.0.0.1:8000/v1.",
    )
    engine_model: str | None = Field(None, description="The model that it asks there; empty means its only one.")
    engine_api_key: SecretStr | None = Field(None, description="The key that it shows there; empty means none.")
    policy: str = Field(
        "champion",
        description="champion (from the registry; the shipped starter at first), or any Hugging Face causal model by "
        "path or hub id.",
    )
    engine_queue: int = Field(256, ge=1, description="Requests in the engine at once; more get the next rung.")
    engine_context_tokens: int = Field(512, ge=64, description="Tokens of prompt and completion together.")
    engine_dtype: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="Precision of the engine; auto is bfloat16 where the machine computes in it."
    )
    prompt_tokens: int = Field(320, ge=32, description="Token budget of a prompt.")
    vllm_gpu_memory_share: float = Field(
        0.45,
        gt=0,
        lt=1,
        description="Share of GPU memory that one engine may take; there are two while a model replaces another.",
    )
    vllm_cpu_kv_cache_gib: int = Field(1, ge=1, description="Memory for vLLM's KV cache on a CPU.")
    lora_max_adapters: int = Field(8, ge=1, description="LoRA adapters kept ready in the engine.")
    lora_max_rank: int = Field(32, ge=1, description="Largest rank of a LoRA adapter.")
    temperature: float | None = Field(
        None, ge=0, le=2, description="Decoding temperature, 0 is greedy; empty means the policy's own, usually 0.7."
    )
    top_p: float | None = Field(
        None, gt=0, le=1, description="Decoding nucleus; empty means the policy's own, usually 0.95."
    )
    presence_penalty: float | None = Field(
        None, ge=-2, le=2, description="Penalty on tokens that a list has already; empty means the policy's own."
    )
    frequency_penalty: float | None = Field(
        None, ge=-2, le=2, description="The same for each time that it has them; empty means the policy's own."
    )

    exact_tokens: int | None = Field(
        None, ge=1, description="Benchmarks only: every completion has exactly this many tokens."
    )

    click_token_secrets: list[SecretStr] = Field(
        default_factory=list,
        description="Keys that sign click tokens, newest first, two at most; empty means a file in the data directory.",
    )
    click_token_days: float = Field(7, gt=0, description="Days a click token is valid.")
    cors_origins: list[str] = Field(
        default_factory=list, description="Origins whose pages may call the API, as a JSON list."
    )
    console_changes: bool = Field(
        False,
        description="Whether the console may change what serves though the service listens beyond loopback; a gateway must "
        "know who asks.",
    )
    max_body_bytes: int = Field(1_048_576, ge=1024, description="Largest request body.")
    max_in_flight: int = Field(512, ge=1, description="Requests at once; more get 503 with Retry-After.")
    quarantine_max_rows: int = Field(
        100_000, ge=0, description="Rows kept in the quarantine; later ones are counted only."
    )
    cor_tasks: list[str] = Field(
        default_factory=lambda: ["suggest", "snippets", "hint", "clarify", "predict"],
        description="Tasks that get co-occurrence queries, as a JSON list; [] switches them off.",
    )
    cor_n: int = Field(
        10, ge=1, description="When fewer queries followed a query, similar queries are looked at (GQR's n)."
    )
    cor_neighbours: int = Field(30, ge=1, le=200, description="How many similar queries are looked at (GQR's N_s).")
    cor_similarity_floor: float = Field(
        0.55,
        ge=-1,
        le=1,
        description="Least cosine similarity of a similar query; below it nothing is better than noise.",
    )
    cor_in_prompt: int = Field(5, ge=0, le=20, description="Co-occurrence queries that a prompt shows at most.")
    ctr_use: Literal["off", "best_of", "reorder"] = Field(
        "off",
        description="What the click predictor is for: best_of shows the best of several lists that the model writes, "
        "reorder puts the queries of its one list in their best order.",
    )
    ctr_best_of: int = Field(4, ge=2, le=16, description="With best_of: lists that the model writes at once.")
    ctr_explore_share: float = Field(
        0.0, ge=0, le=1, description="With reorder: share of the lists whose order is drawn at random, to learn from."
    )
    redis_url: str | None = Field(
        None, description="redis://host:6379/0 keeps the co-occurrence dictionary for many services; empty: in process."
    )
    redis_keep_old_s: int = Field(86_400, ge=60, description="Seconds that Redis keeps a build after a newer one came.")
    experiments_file: Path | None = Field(
        None, description="The experiments, as YAML; empty means experiments.yaml in the data directory."
    )
    popular_min_people: int = Field(5, ge=1, description="People who must have typed a query before others see it.")
    popular_days: float = Field(28, gt=0, description="Days of the search log that popular queries are read from.")
    judge_url: str | None = Field(
        None,
        description="Where the judge openai_http asks: any OpenAI-compatible API, as in https://api.openai.com/v1.",
    )
    judge_model: str | None = Field(None, description="The model that it asks there.")
    judge_api_key: SecretStr | None = Field(None, description="The key that it shows there; empty means none.")
    judge_at_once: int = Field(8, ge=1, le=256, description="Questions that it asks at once.")
    timeouts: Timeouts = Field(default_factory=Timeouts)
    jobs: Jobs = Field(default_factory=Jobs)

    def resolved_database_url(self) -> str:
        """The database URL, the embedded SQLite file where none is set."""
        return self.database_url or f"sqlite+aiosqlite:///{(self.data_dir / 'nextquery.db').absolute()}"

    def resolved_experiments_file(self) -> Path:
        """The experiment file."""
        return self.experiments_file or self.data_dir / "experiments.yaml"

    def decoding(self) -> dict[str, float]:
        """What is said here about decoding; the rest is the policy's own."""
        names = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
        return {name: value for name in names if (value := getattr(self, name)) is not None}

    @model_validator(mode="after")
    def _sizes_fit_together(self) -> Self:
        if self.prompt_tokens >= self.engine_context_tokens:
            raise ValueError(
                f"prompt_tokens ({self.prompt_tokens}) leaves no room for a completion in engine_context_tokens "
                f"({self.engine_context_tokens}). Raise the second, or lower the first."
            )
        if self.timeouts.recommend_s and self.timeouts.recommend_s > self.timeouts.recommend_max_s:
            raise ValueError("timeouts.recommend_s is above timeouts.recommend_max_s. Raise the second.")
        return self

    @model_validator(mode="after")
    def _secrets_are_usable(self) -> Self:
        if len(self.click_token_secrets) > _MOST_SECRETS:
            raise ValueError("click_token_secrets has more than two keys. Keep the newest and the one before it.")
        if any(len(secret.get_secret_value()) < _SHORTEST_SECRET for secret in self.click_token_secrets):
            raise ValueError(
                f"click_token_secrets has a key of fewer than {_SHORTEST_SECRET} characters, which can be guessed. "
                "`openssl rand -hex 32` writes a good one."
            )
        return self


def load_settings(**overrides: Any) -> Settings:
    """The settings from the environment and `.env`; `overrides` that are not None go before both.

    Raises:
        ConfigurationError: A value is wrong. The text names the variable and never quotes the value.
    """
    try:
        return Settings(**{name: value for name, value in overrides.items() if value is not None})
    except ValidationError as error:
        raise ConfigurationError("The settings are wrong. " + " ".join(map(_sentence, error.errors()))) from None
    except SettingsError as error:
        raise ConfigurationError(f'The settings are wrong: {error}. Lists are written as JSON: ["a", "b"].') from None


def _sentence(error: Any) -> str:
    message = str(error["msg"]).removeprefix("Value error, ").rstrip(".")
    variable = "NEXTQUERY_" + "__".join(str(part) for part in error["loc"]).upper()
    return f"{variable}: {message}." if error["loc"] else f"{message}."
