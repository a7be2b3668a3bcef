// Unpacks the Chromium of npm into the directory of temporary files, unless it is there, and says where.
import chromium from '@sparticuz/chromium';

console.log(await chromium.executablePath());
