// Who is logged in in this browser? Keys, certificates, and what was trusted at the login.
//
// Private keys are made by the browser and cannot be exported, not by these pages either. They are in
// the browser's database until the log-out; the certificates end by themselves.

import { ApiError, Authority } from "./authority.js";
import { Bytes, base64, concat, sized, utf8 } from "./bytes.js";
import type { NewDevice, SecondFactor } from "./second_factors.js";
import { SocketStream } from "./socket.js";
import { fromPem, pin } from "./x509.js";

const CURVE = { name: "ECDSA", namedCurve: "P-256" } as const;
const KIND = "ecdsa-sha2-nistp256";
const DATABASE = "tele";
const STORE = "login";

/** What the proxy says of its cluster, as its pages do. */
export interface Cluster {
  cluster: string;
  version: string;
  /** PEM of the CAs of the cluster's hosts. */
  trust: string[];
}

export interface Login {
  user: string;
  cluster: string;
  expires: string;
  trust: string[];
  tlsKey: CryptoKey;
  tlsCertificate: string;
  sshKey: CryptoKey;
  sshCertificate: string;
}

interface Issued {
  ssh: string;
  tls: string;
  expires: string;
  authorities: { kind: string; tls_certificates: string[] }[];
  recovery_codes?: string[];
}

/** A login, and recovery codes where a second factor was set up with it: they are shown once. */
export interface LoggedIn {
  login: Login;
  codes: string[];
}

export async function fetchCluster(): Promise<Cluster> {
  const response = await fetch("/web/cluster.json", { cache: "no-store" });
  if (!response.ok) throw new Error("the proxy is not ready yet");
  return (await response.json()) as Cluster;
}

export const pins = (trust: string[]): Promise<string[]> => Promise.all(trust.map(pin));

/** A stream that the proxy connects to auth, or to its SSH server. Throws Unreachable. */
export function dial(to: "auth" | "ssh"): Promise<SocketStream> {
  const { protocol, host } = window.location;
  return SocketStream.open(`${protocol === "https:" ? "wss" : "ws"}://${host}/web/${to}`);
}

/** Auth as `login`, or as nobody in particular. */
export function authority(cluster: string, trust: string[], login: Login | null): Authority {
  const identity = login && { chain: fromPem(login.tlsCertificate), key: login.tlsKey };
  return new Authority(() => dial("auth"), { name: `auth.${cluster}`, trust }, identity);
}

const makeKeys = async (): Promise<CryptoKeyPair> =>
  (await crypto.subtle.generateKey(CURVE, false, ["sign", "verify"])) as CryptoKeyPair;

async function sshLine(key: CryptoKey): Promise<string> {
  const point = new Uint8Array(await crypto.subtle.exportKey("raw", key));
  return `${KIND} ${base64(concat(sized(utf8(KIND), 4), sized(utf8("nistp256"), 4), sized(point, 4)))}`;
}

async function pem(key: CryptoKey): Promise<string> {
  const spki: Bytes = new Uint8Array(await crypto.subtle.exportKey("spki", key));
  const lines = base64(spki).match(/.{1,64}/g)!;
  return ["-----BEGIN PUBLIC KEY-----", ...lines, "-----END PUBLIC KEY-----", ""].join("\n");
}

/** Log in with a password and a second factor, which only auth reads. Throws ApiError. */
export const logIn = (
  cluster: Cluster,
  user: string,
  password: string,
  factor: SecondFactor | null,
): Promise<LoggedIn> => issue(cluster, user, "/v1/login", { user, password, ...(factor && { second_factor: factor }) });

export const invitedUser = (code: string): string => code.split(":", 1)[0]!;

/** Accept an invitation, which names the user: set the first password, and log in. Throws ApiError. */
export function accept(
  cluster: Cluster,
  code: string,
  password: string,
  factor: SecondFactor | null,
  device: NewDevice | null,
): Promise<LoggedIn> {
  if (!code.split(":", 2)[1]) throw new ApiError("invalid", "this is not an invitation: it begins with the name of a user and :");
  const more = { ...(factor && { second_factor: factor }), ...(device && { device }) };
  return issue(cluster, invitedUser(code), "/v1/invitation", { code, password, ...more });
}

async function issue(cluster: Cluster, user: string, path: string, proof: object): Promise<LoggedIn> {
  const [ssh, tls] = [await makeKeys(), await makeKeys()];
  const asked = { ...proof, keys: { ssh: await sshLine(ssh.publicKey), tls: await pem(tls.publicKey) } };
  const asNobody = authority(cluster.cluster, cluster.trust, null);
  try {
    const issued = await asNobody.call<Issued>("POST", path, {}, asked);
    const host = issued.authorities.find((each) => each.kind === "host");
    const login: Login = {
      user,
      cluster: cluster.cluster,
      expires: issued.expires,
      trust: host?.tls_certificates ?? cluster.trust,
      tlsKey: tls.privateKey,
      tlsCertificate: issued.tls,
      sshKey: ssh.privateKey,
      sshCertificate: issued.ssh,
    };
    await keep(login);
    return { login, codes: issued.recovery_codes ?? [] };
  } finally {
    asNobody.close();
  }
}

function opened(): Promise<IDBDatabase> {
  return new Promise((resolve, reject) => {
    const request = indexedDB.open(DATABASE, 1);
    request.onupgradeneeded = () => request.result.createObjectStore(STORE);
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}

async function stored<T>(mode: IDBTransactionMode, work: (store: IDBObjectStore) => IDBRequest<T>): Promise<T> {
  const database = await opened();
  try {
    return await new Promise((resolve, reject) => {
      const request = work(database.transaction(STORE, mode).objectStore(STORE));
      request.onsuccess = () => resolve(request.result);
      request.onerror = () => reject(request.error);
    });
  } finally {
    database.close();
  }
}

const keep = (login: Login): Promise<unknown> => stored("readwrite", (store) => store.put(login, "login"));

/** The login of this browser, if it has not ended. */
export async function kept(): Promise<Login | null> {
  const found = (await stored("readonly", (store) => store.get("login"))) as Login | undefined;
  if (found === undefined) return null;
  if (Date.parse(found.expires) > Date.now()) return found;
  await logOut();
  return null;
}

export const logOut = (): Promise<unknown> => stored("readwrite", (store) => store.delete("login"));
